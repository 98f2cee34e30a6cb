-- How the story checks itself: it stops where something is not as it tells. Run before the story, by tools/demo.
CREATE SCHEMA story;
GRANT USAGE ON SCHEMA story TO PUBLIC;
CREATE FUNCTION story.expect(what text, held boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF held IS NOT TRUE THEN
    RAISE EXCEPTION 'the story went wrong here: expected %', what;
  END IF;
END
$$;
