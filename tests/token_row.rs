//! The CHECK on one_time_tokens: which rows it rejects, on a fresh database and on one that was updated from an older release.

use magic_link_harness::postgres::{Client, Error, NoTls};
use magic_link_harness::{Calls, Cluster, Database, ExpectSqlState};

const ADA: &str = "ada@example.com";

/// Each rule, the SET clauses that break it for a new token, and those that break it for a consumed token.
#[rustfmt::skip]
const VIOLATIONS: &[(&str, &[&str], &[&str])] = &[
    ("the hash has 32 bytes",
     &["token_hash = ''", "token_hash = substr(token_hash, 2)", "token_hash = token_hash || '\\x00'", "token_hash = decode(repeat('00', 40000), 'hex')"], &[]),
    ("it expires later than it was created",
     &["expires_at = created_at", "expires_at = '-infinity'", "created_at = 'infinity'", "created_at = 'infinity', expires_at = 'infinity'"], &[]),
    ("it is consumed at some time by somebody",
     &["consumed_at = now()", "consumed_by = 'somebody'"], &["consumed_at = NULL", "consumed_by = NULL"]),
    ("it is not both consumed and revoked",
     &["consumed_at = now(), consumed_by = 'somebody', revoked_at = now()"], &["revoked_at = now()"]),
    ("attempts are counted from 0",
     &["failed_attempts = -1", "failed_attempts = -2147483648"], &[]),
    ("an answer is whole, and of what was consumed",
     &["user_created = true, memberships = '[]'", "memberships = '[]'"],
     &["user_created = false", "memberships = 'null'"]),
];

/// SET clauses that the CHECK accepts.
const ACCEPTED: &[&str] = &[
    "revoked_at = now()",
    "created_at = '-infinity', expires_at = 'infinity'",
    "failed_attempts = 2147483647",
    "consumed_at = now(), consumed_by = ''",
    "consumed_at = now(), consumed_by = '', user_created = false, memberships = 'null'",
    "token_hash = sha256('')",
];

/// A database updated from each release, and a fresh one.
fn fresh_and_updated() -> Vec<(String, Database<'static>)> {
    let rows = Database::bare(Cluster::shared(), "")
        .superuser()
        .query(
            "SELECT version FROM pg_available_extension_versions WHERE name = 'magic_link' ORDER BY 1",
            &[],
        )
        .unwrap();
    assert!(rows.len() > 2);
    let versions = rows.iter().map(|row| row.get(0));
    versions
        .map(|version: String| (version.clone(), updated_from(&version, "")))
        .collect()
}

/// With these statements before the update.
fn updated_from(version: &str, before: &str) -> Database<'static> {
    let db = Database::bare(Cluster::shared(), "");
    db.sql(&format!("CREATE EXTENSION magic_link VERSION '{version}'"));
    db.sql(before);
    db.sql("ALTER EXTENSION magic_link UPDATE");
    db
}

/// A new token, and one that was consumed.
fn issue(db: &Database) {
    db.sql(
        "SELECT magic_link.create_one_time_token('new@example.com');
         SELECT magic_link.redeem_one_time_token(t.token, t.email)
           FROM magic_link.create_one_time_token('consumed@example.com') AS t",
    );
}

/// How PostgreSQL takes it when a token is changed by hand, and when it is written so from the start.
fn write(client: &mut Client, email: &str, change: &str) -> [Result<(), Error>; 2] {
    let ours = "magic_link.one_time_tokens";
    let update = format!("UPDATE {ours} SET {change} WHERE email = '{email}@example.com'");
    let insert = format!(
        "CREATE TEMP TABLE changed ON COMMIT DROP AS SELECT * FROM {ours} WHERE email = '{email}@example.com';
         UPDATE changed SET {change};
         DELETE FROM {ours};
         INSERT INTO {ours} SELECT * FROM changed"
    );
    [update, insert].map(|statements| {
        // Rolled back when it goes away.
        client.transaction().unwrap().batch_execute(&statements)
    })
}

#[track_caller]
fn assert_rules_hold(db: &Database, descent: &str) {
    issue(db);
    let mut superuser = db.superuser();
    for (rule, of_new, of_consumed) in VIOLATIONS {
        for (email, changes) in [("new", of_new), ("consumed", of_consumed)] {
            for change in *changes {
                for written in write(&mut superuser, email, change) {
                    let error = written.expect_sqlstate("23514");
                    let named = (error.schema(), error.table(), error.constraint());
                    let ours = (
                        Some("magic_link"),
                        Some("one_time_tokens"),
                        Some("one_time_tokens_sound"),
                    );
                    assert_eq!(named, ours, "from {descent}, {rule}: {change}");
                }
            }
        }
    }
    for change in ACCEPTED {
        for written in write(&mut superuser, "new", change) {
            written.unwrap_or_else(|error| panic!("from {descent}, {change}: {error:?}"));
        }
    }
}

#[test]
fn each_rule_holds_whatever_release_the_database_comes_from() {
    for (descent, db) in fresh_and_updated() {
        assert_rules_hold(&db, &descent);
    }
}

/// What 0.2.0 had in its place, word for word, where NULL is no breach.
const SIX_CONSTRAINTS: &str = "
    coalesce(length((r.t).token_hash) = 32, true)
    AND coalesce((r.t).expires_at > (r.t).created_at, true)
    AND ((r.t).consumed_at IS NULL) = ((r.t).consumed_by IS NULL)
    AND ((r.t).consumed_at IS NULL OR (r.t).revoked_at IS NULL)
    AND coalesce((r.t).failed_attempts >= 0, true)
    AND ((r.t).user_created IS NULL) = ((r.t).memberships IS NULL)
    AND ((r.t).memberships IS NULL OR (r.t).consumed_at IS NOT NULL)";

#[test]
fn the_rules_are_those_of_the_six_constraints_that_were() {
    let db = Database::new();
    let moments =
        "'{-infinity, 1999-12-31 23:59:59.999999Z, 2000-01-01Z, infinity, NULL}'::timestamptz[]";
    let row = db
        .superuser()
        .query_one(
            &format!(
                "SELECT count(*), count(*) FILTER (WHERE magic_link.one_time_token_is_sound(r.t)),
                        count(*) FILTER (WHERE magic_link.one_time_token_is_sound(r.t) IS DISTINCT FROM ({SIX_CONSTRAINTS}))
                   FROM (SELECT ROW(NULL, h, NULL, NULL, NULL, NULL, created, expires, consumed, consumer,
                                    revoked, NULL, attempts, user_created, memberships)::magic_link.one_time_tokens
                           FROM unnest(ARRAY['', sha256(''), substr(sha256(''), 2), sha256('') || '\\x00', NULL]) AS h,
                                unnest({moments}) AS created, unnest({moments}) AS expires,
                                unnest('{{now, NULL}}'::timestamptz[]) AS consumed,
                                unnest('{{\"\", NULL}}'::text[]) AS consumer,
                                unnest('{{infinity, NULL}}'::timestamptz[]) AS revoked,
                                unnest('{{-2147483648, -1, 0, 2147483647, NULL}}'::int[]) AS attempts,
                                unnest('{{false, NULL}}'::bool[]) AS user_created,
                                unnest('{{\"null\", NULL}}'::jsonb[]) AS memberships) AS r (t)"
            ),
            &[],
        )
        .unwrap();
    let counts: [i64; 3] = [0, 1, 2].map(|column| row.get(column));
    // Of five hashes two do, of 25 lives 15, of five counts three, and of 32 histories four.
    assert_eq!(counts, [5 * 25 * 5 * 32, 2 * 15 * 3 * 4, 0]);
}

/// As PostgreSQL keeps it: as it is, compressed, or in the table of what is too long.
#[test]
fn a_hash_is_as_long_wherever_it_is_kept() {
    let db = Database::new();
    // Rows too long for PostgreSQL, in which it may shorten nothing else.
    db.sql(
        "ALTER TABLE magic_link.one_time_tokens SET (toast_tuple_target = 128);
         ALTER TABLE magic_link.one_time_tokens
             ALTER context SET STORAGE PLAIN, ALTER email SET STORAGE PLAIN, ALTER consumed_by SET STORAGE PLAIN",
    );
    issue(&db);
    let lengthened = "context = jsonb_build_object('x', repeat('x', 3000))";
    for (storage, compression, elsewhere) in [
        ("PLAIN", "none", false),
        ("MAIN", "pglz", false),
        ("EXTERNAL", "none", true),
    ] {
        let zeros = |length| format!("token_hash = decode(repeat('00', {length}), 'hex')");
        db.sql(&format!(
            "ALTER TABLE magic_link.one_time_tokens ALTER token_hash SET STORAGE {storage};
             UPDATE magic_link.one_time_tokens SET {lengthened}, {}",
            zeros(32)
        ));
        let (compressed, moved) = how_hashes_are_kept(&db);
        assert_eq!(
            (compressed.as_str(), moved),
            (compression, elsewhere),
            "{storage}"
        );
        db.sql("UPDATE magic_link.one_time_tokens SET failed_attempts = failed_attempts + 1");
        assert!(db.value::<bool>(ALL_SOUND, &[]), "{storage}");
        for length in [31, 33, 40_000] {
            let change = format!("{lengthened}, {}", zeros(length));
            for written in write(&mut db.superuser(), "new", &change) {
                written.expect_sqlstate("23514");
            }
        }
    }
}

/// How they are compressed, and whether they are in the table of what is too long.
fn how_hashes_are_kept(db: &Database) -> (String, bool) {
    let compression = "SELECT DISTINCT coalesce(pg_column_compression(token_hash), 'none') FROM magic_link.one_time_tokens";
    let moved = "SELECT pg_relation_size(reltoastrelid) > 0 FROM pg_class WHERE oid = 'magic_link.one_time_tokens'::regclass";
    (db.value(compression, &[]), db.value(moved, &[]))
}

/// As the function says itself.
const ALL_SOUND: &str =
    "SELECT bool_and(magic_link.one_time_token_is_sound(t)) FROM magic_link.one_time_tokens AS t";

#[track_caller]
fn assert_goes_on(db: &Database) {
    let mut superuser = db.superuser();
    let issued = superuser.create(ADA, "{}").unwrap();
    superuser
        .try_redeem_in(None, &issued.token, "eve@example.com")
        .unwrap();
    superuser.redeem(&issued.token, ADA).unwrap();
    db.change(issued.id, "created_at = created_at - interval '1 day'");
    assert!(db.value::<bool>(ALL_SOUND, &[]));
    let breach = format!(
        "UPDATE magic_link.one_time_tokens SET failed_attempts = -1 WHERE id = '{}'",
        issued.id
    );
    superuser.batch_execute(&breach).expect_sqlstate("23514");
}

/// By a release to come, or by a DBA: behind the columns that there are.
#[test]
fn a_table_that_gains_a_column_is_checked_as_before() {
    let db = Database::new();
    issue(&db);
    for column in [
        "note text",
        "priority integer NOT NULL DEFAULT 7",
        // This one writes the table anew.
        "tag uuid DEFAULT gen_random_uuid()",
    ] {
        db.sql(&format!(
            "ALTER TABLE magic_link.one_time_tokens ADD COLUMN {column}"
        ));
        assert_goes_on(&db);
    }
    db.sql("ALTER TABLE magic_link.one_time_tokens DROP COLUMN note");
    assert_goes_on(&db);
}

/// A DBA added a column when there were fewer: those of the releases since came behind it.
#[test]
fn the_columns_are_found_in_whatever_order_they_came() {
    let db = updated_from(
        "0.1.0",
        "ALTER TABLE magic_link.one_time_tokens ADD COLUMN note integer",
    );
    assert_goes_on(&db);
    assert_rules_hold(&db, "0.1.0 with a column more");
}

/// PostgreSQL hands no CHECK of a whole row on; docs/tables-and-views.md says how to copy the table.
#[test]
fn a_copy_of_the_table_goes_without_the_check() {
    let db = Database::new();
    let mut superuser = db.superuser();
    let copy = "CREATE TABLE public.kept (LIKE magic_link.one_time_tokens INCLUDING ALL";
    superuser
        .batch_execute(&format!("{copy})"))
        .expect_sqlstate("0A000");
    superuser
        .batch_execute(&format!("{copy} EXCLUDING CONSTRAINTS)"))
        .unwrap();
}

#[test]
fn a_row_that_lacks_a_column_is_not_judged() {
    let db = Database::new();
    issue(&db);
    for change in [
        "RENAME COLUMN failed_attempts TO attempts",
        "ALTER COLUMN token_hash TYPE text USING encode(token_hash, 'hex')",
    ] {
        let mut superuser = db.superuser();
        let mut transaction = superuser.transaction().unwrap();
        transaction
            .batch_execute(&format!("ALTER TABLE magic_link.one_time_tokens {change}"))
            .unwrap();
        transaction
            .batch_execute("UPDATE magic_link.one_time_tokens SET revoked_at = NULL")
            .expect_sqlstate("42P13");
    }
}

/// Its rights on the table are all that it needs, also where PUBLIC's default is to execute nothing.
#[test]
fn who_was_granted_the_table_writes_it_without_any_other_right() {
    let db = updated_from(
        "0.1.0",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    );
    assert_clerk_writes(&db);
    let db = Database::bare(Cluster::shared(), "");
    db.sql(
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
         CREATE EXTENSION magic_link",
    );
    assert_clerk_writes(&db);
}

#[track_caller]
fn assert_clerk_writes(db: &Database) {
    issue(db);
    let clerk = db.role("clerk", "LOGIN");
    // Without USAGE on the schema a view is the way to the table: one asks for the caller's rights on
    // it, the other for its owner's, and the CHECK runs as the caller in both.
    db.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE ON magic_link.one_time_tokens TO {clerk};
         CREATE VIEW public.callers WITH (security_invoker) AS SELECT * FROM magic_link.one_time_tokens;
         CREATE VIEW public.owners AS SELECT * FROM magic_link.one_time_tokens;
         GRANT SELECT, INSERT, UPDATE ON public.callers, public.owners TO {clerk}"
    ));
    let mut client = db.connect_as(&clerk);
    client
        .batch_execute("UPDATE magic_link.one_time_tokens SET failed_attempts = 1")
        .expect_sqlstate("42501");
    for (number, view) in ["callers", "owners"].iter().enumerate() {
        client
            .batch_execute(&format!(
                "UPDATE {view} SET failed_attempts = failed_attempts + 1;
                 INSERT INTO {view} (id, token_hash, email, organization_ids, context, created_at, expires_at)
                 SELECT '00000000-0000-7000-8000-00000000000{number}', sha256('{view}'), '{view}@example.com', '{{}}', '{{}}', now(), 'infinity'"
            ))
            .unwrap();
        client
            .batch_execute(&format!("UPDATE {view} SET failed_attempts = -1"))
            .expect_sqlstate("23514");
    }
    assert_eq!(
        db.count("magic_link.one_time_tokens WHERE failed_attempts IN (0, 1, 2)"),
        4
    );
}

/// Such a client is served by no function of ours, and this one it does not call itself.
#[test]
fn a_client_that_asked_for_a_guarded_setting_writes_the_table_it_was_granted() {
    let db = Database::new();
    issue(&db);
    let clerk = db.role("clerk", "LOGIN");
    db.sql(&format!(
        "GRANT USAGE ON SCHEMA magic_link TO {clerk};
         GRANT SELECT, UPDATE ON magic_link.one_time_tokens TO {clerk}"
    ));
    let mut config = db.cluster().config(db.name(), &clerk);
    config.options("-c magic_link.max_expires_in=1");
    let mut client = config.connect(NoTls).unwrap();
    client
        .batch_execute("UPDATE magic_link.one_time_tokens SET failed_attempts = 1")
        .unwrap();
}
