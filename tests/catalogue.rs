//! The comparison of two catalogues, which the tests of updates, dumps and pg_upgrade use, notices each kind of change.

use magic_link_harness::{APPLICATION_SCHEMA, Application, Catalogue, Cluster, Database};

const SCHEMAS: &[&str] = &["magic_link", APPLICATION_SCHEMA];

/// Kinds of objects that the extension does not have, but an application may.
const OTHER_KINDS_OF_OBJECTS: &str = "
    ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO pg_monitor;
    CREATE TABLE app.parent (n int);
    CREATE TABLE app.child (i int GENERATED ALWAYS AS IDENTITY, g int GENERATED ALWAYS AS (1) STORED) INHERITS (app.parent);
    ALTER TABLE app.child ADD CONSTRAINT later CHECK (n > 0) NOT VALID;
    CREATE POLICY own ON app.child USING (n > 0);
    CREATE RULE quiet AS ON DELETE TO app.child DO INSTEAD NOTHING;
    CREATE MATERIALIZED VIEW app.counted AS SELECT 1 AS n;
    CREATE SEQUENCE app.numbers;
    CREATE TYPE app.mood AS ENUM ('calm');
    CREATE TYPE app.pair AS (a int, b text);
    CREATE DOMAIN app.word AS text CONSTRAINT filled CHECK (VALUE <> '');
    CREATE FUNCTION app.many() RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int);
";

/// A change to a database, and a part of the difference that it has to make.
#[rustfmt::skip]
const CHANGES: &[(&str, &str)] = &[
    // The database, and what is set for it.
    ("ALTER DATABASE {db} SET work_mem = '8MB'", "only changed: database: settings: {\"{backend}\": [\"magic_link.prompt=consent\"], \"everybody\": [\"magic_link.max_expires_in=1h\", \"work_mem=8MB\"]}"),
    ("ALTER ROLE {backend} IN DATABASE {db} RESET ALL", "only before: database: settings: "),
    ("COMMENT ON DATABASE {db} IS 'x'", "database: comment: x"),
    ("GRANT CREATE ON DATABASE {db} TO {clerk}", "database: privilege: {clerk} CREATE from postgres"),
    ("ALTER DATABASE {db} OWNER TO {clerk}", "database: owner: {clerk}"),
    ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {clerk}", "only changed: default acl for role postgres on tables\n"),
    ("ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO {clerk}", "only changed: default acl for role postgres on sequences: privilege: {clerk} USAGE from postgres"),

    // The extension.
    ("UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'magic_link'", "extension magic_link: version: 0.0.1"),
    ("UPDATE pg_extension SET extnamespace = 'public'::regnamespace WHERE extname = 'magic_link'", "extension magic_link: schema: public"),
    ("UPDATE pg_extension SET extrelocatable = true WHERE extname = 'magic_link'", "extension magic_link: relocatable: true"),
    ("UPDATE pg_extension SET extowner = '{clerk}'::regrole WHERE extname = 'magic_link'", "extension magic_link: owner: {clerk}"),
    ("UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:] WHERE extname = 'magic_link'", "extension magic_link: marked for pg_dump: "),
    ("UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'magic_link'", "\"WHERE false\""),
    ("COMMENT ON EXTENSION magic_link IS 'x'", "extension magic_link: comment: x"),
    ("CREATE EXTENSION citext", "only changed: extension citext\n"),
    ("ALTER EXTENSION magic_link DROP VIEW magic_link.session_switch", "only before: extension magic_link: member: view magic_link.session_switch"),
    ("ALTER EXTENSION magic_link ADD TABLE app.profiles", "only changed: extension magic_link: member: table app.profiles"),
    ("CREATE CAST (uuid AS bytea) WITH INOUT; ALTER EXTENSION magic_link ADD CAST (uuid AS bytea)", "only changed: extension magic_link: member: cast (pg_catalog.uuid AS pg_catalog.bytea)"),
    ("ALTER FUNCTION app.trim_nickname() DEPENDS ON EXTENSION magic_link", "extension magic_link: depends on it: function app.trim_nickname()"),

    // The schema.
    ("COMMENT ON SCHEMA magic_link IS NULL", "only before: schema magic_link: comment: One-time tokens"),
    ("ALTER SCHEMA magic_link OWNER TO {clerk}", "schema magic_link: owner: {clerk}"),
    ("GRANT USAGE ON SCHEMA magic_link TO PUBLIC", "schema magic_link: privilege: PUBLIC USAGE from postgres"),

    // Tables.
    ("CREATE TABLE magic_link.more ()", "only changed: table magic_link.more\n"),
    ("DROP TABLE app.profiles", "only before: table app.profiles\n"),
    ("ALTER TABLE magic_link.users OWNER TO {clerk}", "table magic_link.users: owner: {clerk}"),
    ("ALTER TABLE magic_link.one_time_tokens SET (fillfactor = 46)", "table magic_link.one_time_tokens: reloptions: [\"fillfactor=46\"]"),
    ("ALTER TABLE magic_link.one_time_tokens SET (toast.autovacuum_enabled = off)", "table magic_link.one_time_tokens: options of its toast: [\"autovacuum_enabled=off\"]"),
    ("ALTER TABLE app.profiles SET UNLOGGED", "table app.profiles: relpersistence: u"),
    ("ALTER TABLE magic_link.users REPLICA IDENTITY FULL", "table magic_link.users: relreplident: f"),
    ("ALTER TABLE magic_link.users ENABLE ROW LEVEL SECURITY", "table magic_link.users: relrowsecurity: true"),
    ("ALTER POLICY own ON app.child USING (n = 1)", "policy own on app.child: using: (n = 1)"),
    ("CREATE OR REPLACE RULE quiet AS ON DELETE TO app.child DO INSTEAD SELECT 1", "rule quiet on app.child: definition, line 002:     ON DELETE TO app.child DO INSTEAD  SELECT 1"),
    ("ALTER TABLE app.child NO INHERIT app.parent", "only before: table app.child: inherits: [\"app.parent\"]"),
    ("COMMENT ON TABLE magic_link.users IS 'x'", "table magic_link.users: comment: x"),
    ("REVOKE SELECT ON magic_link.organizations FROM {reader}", "only before: table magic_link.organizations: privilege: {reader} SELECT from postgres"),
    ("REVOKE GRANT OPTION FOR SELECT ON magic_link.users FROM {clerk}", "only changed: table magic_link.users: privilege: {clerk} SELECT from postgres"),
    ("UPDATE pg_class SET relacl = NULL WHERE oid = 'magic_link.one_time_tokens'::regclass", "table magic_link.one_time_tokens: privileges: the default"),
    ("UPDATE pg_init_privs SET initprivs = (SELECT relacl FROM pg_class WHERE oid = objoid) WHERE objoid = 'magic_link.organizations'::regclass",
     "table magic_link.organizations: privilege at first (e): {reader} SELECT from postgres"),
    ("DELETE FROM pg_init_privs WHERE objoid = 'magic_link.one_time_tokens'::regclass", "only before: table magic_link.one_time_tokens: privilege at first (e): postgres SELECT from postgres"),

    // Columns.
    ("ALTER TABLE magic_link.users ADD COLUMN note text", "only changed: table column magic_link.users.note\n"),
    ("ALTER TABLE app.profiles DROP COLUMN nickname", "only before: table column app.profiles.nickname\n"),
    ("ALTER TABLE app.profiles ADD COLUMN again text; ALTER TABLE app.profiles DROP COLUMN nickname; ALTER TABLE app.profiles ADD nickname text",
     "only changed: table column app.profiles.nickname: place: 3"),
    ("ALTER TABLE app.profiles ALTER nickname TYPE varchar(80)", "table column app.profiles.nickname: type: character varying(80)"),
    ("ALTER TABLE app.profiles ALTER nickname TYPE text COLLATE \"C\"", "table column app.profiles.nickname: collation: pg_catalog.\"C\""),
    ("ALTER TABLE magic_link.users ALTER created_at DROP NOT NULL", "table column magic_link.users.created_at: attnotnull: false"),
    ("ALTER TABLE magic_link.users ALTER created_at DROP DEFAULT", "only before: table column magic_link.users.created_at: default: now()"),
    ("ALTER TABLE app.child ALTER i SET GENERATED BY DEFAULT", "table column app.child.i: attidentity: d"),
    ("ALTER TABLE app.child ALTER g DROP EXPRESSION", "only before: table column app.child.g: attgenerated: s"),
    ("ALTER TABLE magic_link.one_time_tokens ALTER context SET STORAGE MAIN", "table column magic_link.one_time_tokens.context: attstorage: m"),
    ("ALTER TABLE magic_link.one_time_tokens ALTER context SET COMPRESSION pglz", "table column magic_link.one_time_tokens.context: attcompression: p"),
    ("ALTER TABLE magic_link.one_time_tokens ALTER email SET STATISTICS 500", "table column magic_link.one_time_tokens.email: attstattarget: 500"),
    ("ALTER TABLE magic_link.one_time_tokens ALTER email SET (n_distinct = -1)", "table column magic_link.one_time_tokens.email: attoptions: [\"n_distinct=-1\"]"),
    ("COMMENT ON COLUMN magic_link.users.email IS NULL", "only before: table column magic_link.users.email: comment: The address"),
    ("COMMENT ON COLUMN magic_link.session_switch.reason IS 'x'", "view column magic_link.session_switch.reason: comment: x"),
    ("GRANT SELECT (id) ON magic_link.users TO {backend}", "table column magic_link.users.id: privilege: {backend} SELECT from postgres"),

    // Constraints.
    ("ALTER TABLE magic_link.users DROP CONSTRAINT users_email_normalized", "only before: table constraint users_email_normalized on magic_link.users\n"),
    ("ALTER TABLE magic_link.users DROP CONSTRAINT users_email_normalized; ALTER TABLE magic_link.users ADD CONSTRAINT users_email_normalized CHECK (email <> '')",
     "only changed: table constraint users_email_normalized on magic_link.users: definition: CHECK ((email <> ''::text))"),
    ("ALTER TABLE magic_link.users RENAME CONSTRAINT users_email_key TO users_email_unique", "only changed: table constraint users_email_unique on magic_link.users\n"),
    ("ALTER TABLE app.child VALIDATE CONSTRAINT later", "table constraint later on app.child: convalidated: true"),
    ("ALTER TABLE magic_link.organization_memberships ALTER CONSTRAINT organization_memberships_user_id_fkey DEFERRABLE INITIALLY DEFERRED", "organization_memberships_user_id_fkey on magic_link.organization_memberships: condeferred: true"),
    ("ALTER TABLE app.profiles DROP CONSTRAINT profiles_user_id_fkey; ALTER TABLE app.profiles ADD FOREIGN KEY (user_id) REFERENCES magic_link.users",
     "table constraint profiles_user_id_fkey on app.profiles: definition: FOREIGN KEY (user_id) REFERENCES magic_link.users(id)\n"),
    ("COMMENT ON CONSTRAINT users_pkey ON magic_link.users IS 'x'", "table constraint users_pkey on magic_link.users: comment: x"),

    // Indexes.
    ("CREATE INDEX ON magic_link.one_time_tokens (email)", "only changed: index magic_link.one_time_tokens_email_idx\n"),
    ("DROP INDEX magic_link.organization_memberships_user_id_idx", "only before: index magic_link.organization_memberships_user_id_idx\n"),
    ("DROP INDEX magic_link.organization_memberships_user_id_idx; CREATE INDEX organization_memberships_user_id_idx ON magic_link.organization_memberships USING hash (user_id)",
     "index magic_link.organization_memberships_user_id_idx: access method: hash"),
    ("ALTER INDEX magic_link.users_email_key SET (fillfactor = 70)", "index magic_link.users_email_key: reloptions: [\"fillfactor=70\"]"),
    ("ALTER TABLE magic_link.users CLUSTER ON users_email_key", "index magic_link.users_email_key: indisclustered: true"),
    ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'magic_link.users_email_key'::regclass", "index magic_link.users_email_key: indisvalid: false"),
    ("COMMENT ON INDEX magic_link.users_email_key IS 'x'", "index magic_link.users_email_key: comment: x"),

    // Triggers, those of foreign keys too.
    ("DROP TRIGGER trim_nickname ON app.profiles", "only before: trigger trim_nickname on app.profiles\n"),
    ("ALTER TABLE app.profiles DISABLE TRIGGER trim_nickname", "trigger trim_nickname on app.profiles: tgenabled: D"),
    ("ALTER TABLE magic_link.organization_memberships DISABLE TRIGGER ALL", "only changed: trigger of organization_memberships_user_id_fkey on magic_link.organization_memberships, \"RI_FKey_check_ins\": tgenabled: D"),
    ("CREATE OR REPLACE TRIGGER trim_nickname BEFORE INSERT OR UPDATE ON app.profiles FOR EACH ROW EXECUTE FUNCTION app.trim_nickname()", "BEFORE INSERT OR UPDATE"),

    // Views.
    ("CREATE OR REPLACE VIEW app.decisions AS SELECT s.token_id, s.decision, s.reason FROM magic_link.session_switch AS s WHERE true", "view app.decisions: definition, line 004:"),
    ("ALTER VIEW magic_link.session_switch SET (security_barrier)", "view magic_link.session_switch: reloptions: [\"security_barrier=true\"]"),
    ("ALTER VIEW app.decisions SET (security_invoker)", "view app.decisions: reloptions: [\"security_invoker=true\"]"),
    ("DROP VIEW app.decisions", "only before: view app.decisions\n"),
    ("COMMENT ON VIEW magic_link.session_switch IS NULL", "only before: view magic_link.session_switch: comment, line 001: One row"),
    ("DROP MATERIALIZED VIEW app.counted; CREATE MATERIALIZED VIEW app.counted AS SELECT 2 AS n", "materialized view app.counted: definition:  SELECT 2 AS n"),

    // Sequences and types.
    ("CREATE SEQUENCE magic_link.n", "only changed: sequence magic_link.n\n"),
    ("ALTER SEQUENCE app.numbers INCREMENT 2", "sequence app.numbers: seqincrement: 2"),
    ("ALTER SEQUENCE app.numbers OWNED BY app.profiles.nickname", "sequence app.numbers: owned by: app.profiles.nickname"),
    ("ALTER TYPE app.mood RENAME VALUE 'calm' TO 'quiet'", "type app.mood: labels: [\"quiet\"]"),
    ("ALTER DOMAIN app.word DROP CONSTRAINT filled; ALTER DOMAIN app.word ADD CONSTRAINT filled CHECK (VALUE <> '-')", "domain constraint filled on app.word: definition: CHECK ((VALUE <> '-'::text))"),
    ("ALTER DOMAIN app.word SET DEFAULT 'x'", "type app.word: typdefault: 'x'::text"),
    ("GRANT USAGE ON TYPE app.mood TO {reader}", "type app.mood: privilege: {reader} USAGE from postgres"),
    ("ALTER TYPE app.pair ALTER ATTRIBUTE b TYPE bytea", "composite type column app.pair.b: type: bytea"),
    ("ALTER TABLE app.profiles ADD s int; COMMENT ON TYPE app.profiles IS 'x'", "type app.profiles: comment: x"),

    // Functions.
    ("CREATE FUNCTION magic_link.more() RETURNS int LANGUAGE sql AS 'SELECT 1'", "only changed: function magic_link.more()\n"),
    ("ALTER EXTENSION magic_link DROP FUNCTION magic_link.grant_backend(regrole); DROP FUNCTION magic_link.grant_backend(regrole)", "only before: function magic_link.grant_backend(pg_catalog.regrole)\n"),
    ("ALTER FUNCTION magic_link.one_time_token_id(text) STABLE", "function magic_link.one_time_token_id(pg_catalog.text): provolatile: s"),
    ("ALTER FUNCTION magic_link.one_time_token_id(text) STRICT", "function magic_link.one_time_token_id(pg_catalog.text): proisstrict: true"),
    ("ALTER FUNCTION magic_link.one_time_token_id(text) SECURITY DEFINER", "function magic_link.one_time_token_id(pg_catalog.text): prosecdef: true"),
    ("ALTER FUNCTION magic_link.one_time_token_id(text) PARALLEL UNSAFE", "function magic_link.one_time_token_id(pg_catalog.text): proparallel: u"),
    ("ALTER FUNCTION magic_link.one_time_token_id(text) LEAKPROOF", "function magic_link.one_time_token_id(pg_catalog.text): proleakproof: true"),
    ("ALTER FUNCTION magic_link.one_time_token_id(text) COST 7", "function magic_link.one_time_token_id(pg_catalog.text): procost: 7"),
    ("ALTER FUNCTION app.many() ROWS 7", "function app.many(): prorows: 7"),
    ("ALTER FUNCTION magic_link.grant_backend(regrole) SET search_path TO public", "function magic_link.grant_backend(pg_catalog.regrole): proconfig: [\"search_path=public\"]"),
    ("ALTER FUNCTION magic_link.grant_backend(regrole) OWNER TO {clerk}", "function magic_link.grant_backend(pg_catalog.regrole): owner: {clerk}"),
    ("COMMENT ON FUNCTION magic_link.normalize_email(text) IS 'x'", "function magic_link.normalize_email(pg_catalog.text): comment: x"),
    ("GRANT EXECUTE ON FUNCTION magic_link.one_time_token_id(text) TO PUBLIC", "function magic_link.one_time_token_id(pg_catalog.text): privilege: PUBLIC EXECUTE from postgres"),
    ("UPDATE pg_proc SET probin = '/elsewhere/magic_link' WHERE proname = 'normalize_email'", "function magic_link.normalize_email(pg_catalog.text): probin: /elsewhere/magic_link"),
    ("UPDATE pg_proc SET prosrc = 'another_symbol' WHERE proname = 'normalize_email'", "function magic_link.normalize_email(pg_catalog.text): prosrc: another_symbol"),
    ("UPDATE pg_proc SET proargnames = '{address}' WHERE oid = 'magic_link.normalize_email(text)'::regprocedure", "function magic_link.normalize_email(pg_catalog.text): arguments: address text"),
    ("CREATE OR REPLACE FUNCTION magic_link.normalize_email(email text DEFAULT '') RETURNS text LANGUAGE c IMMUTABLE PARALLEL SAFE AS '$libdir/magic_link', 'magic_link_normalize_email'",
     "function magic_link.normalize_email(pg_catalog.text): arguments: email text DEFAULT ''"),
    ("CREATE OR REPLACE FUNCTION app.trim_nickname() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "function app.trim_nickname(): prosrc: BEGIN RETURN NEW; END"),
    ("DROP FUNCTION app.trim_nickname() CASCADE; CREATE PROCEDURE app.trim_nickname() LANGUAGE sql AS ''", "only changed: procedure app.trim_nickname()\n"),
    ("CREATE OR REPLACE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int, PARALLEL = SAFE)", "aggregate app.total(integer): proparallel: s"),
];

#[test]
fn every_change_is_noticed() {
    let db = Database::bare(Cluster::shared(), "");
    db.sql("CREATE EXTENSION magic_link");
    Application::make_roles(&db);
    Application::move_in(&db);
    let in_place = |text: &str| {
        ["backend", "reader", "clerk"]
            .iter()
            .fold(text.replace("{db}", db.name()), |text, kind| {
                text.replace(&format!("{{{kind}}}"), &db.role_name(kind))
            })
    };
    db.sql(OTHER_KINDS_OF_OBJECTS);
    let mut superuser = db.superuser();
    let before = Catalogue::read(&mut superuser, SCHEMAS);
    let mut unseen = String::new();
    for (change, said) in CHANGES {
        let (change, said) = (in_place(change), in_place(said));
        let mut transaction = superuser.transaction().unwrap();
        let difference = match transaction.batch_execute(&change) {
            Ok(()) => {
                Catalogue::read(&mut transaction, SCHEMAS).difference("changed", &before, "before")
            }
            Err(error) => format!("{error:?}"),
        };
        if !difference.contains(&said) {
            unseen += &format!("{change} should have said\n{said}\nand said\n{difference}\n\n");
        }
        transaction.rollback().unwrap();
    }
    assert!(unseen.is_empty(), "\n{unseen}");
    let after = Catalogue::read(&mut superuser, SCHEMAS);
    assert_eq!(after.difference("after", &before, "before"), "");
}

/// Nothing in it depends on OIDs, or on the order in which things were made.
#[test]
fn equal_databases_have_equal_catalogues() {
    let [one, other] = [(); 2].map(|()| Database::bare(Cluster::shared(), ""));
    one.sql(
        "CREATE TABLE app_first (); CREATE EXTENSION magic_link; ALTER TABLE magic_link.users ADD gone text;
         ALTER TABLE magic_link.users DROP gone; ALTER TABLE magic_link.users ADD note text",
    );
    other.sql("CREATE EXTENSION magic_link; ALTER TABLE magic_link.users ADD note text");
    for db in [&one, &other] {
        db.sql("GRANT SELECT ON magic_link.users TO pg_monitor; ANALYZE");
    }
    other.sql("INSERT INTO magic_link.users (email) VALUES ('a@example.com')");
    other.sql("VACUUM (FULL, ANALYZE) magic_link.users");
    let [one, other] = [one, other].map(|db| Catalogue::read(&mut db.superuser(), SCHEMAS));
    assert!(one.to_string().lines().count() > 1000, "{one}");
    assert_eq!(one.difference("one", &other, "other"), "");
}
