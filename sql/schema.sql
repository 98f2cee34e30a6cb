-- The schema is made here, strictly: a schema that somebody made before is not adopted.
DO $$
BEGIN
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = 'magic_link needs a database in UTF8',
            DETAIL = pg_catalog.format('This database is in %s, where one address could have several spellings.',
                                       pg_catalog.getdatabaseencoding()),
            HINT = 'Use CREATE DATABASE … ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
END
$$;

CREATE SCHEMA magic_link;

COMMENT ON SCHEMA magic_link IS
'One-time tokens for magic links, and the directory of users and organizations that redeeming them fills.';
