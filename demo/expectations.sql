-- How the walkthrough checks itself: it stops where something is not as it says. Run before the walkthrough, by tools/demo.
CREATE SCHEMA walkthrough;
GRANT USAGE ON SCHEMA walkthrough TO PUBLIC;
CREATE FUNCTION walkthrough.expect(what text, held boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF held IS NOT TRUE THEN
    RAISE EXCEPTION 'the walkthrough went wrong here: expected %', what;
  END IF;
END
$$;
