//! Invalid arguments of every function: each is refused with its SQLSTATE, and changes nothing.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Database, ExpectSqlState};

/// A call as the role that may make it, refused with a code and words that name what is wrong.
#[track_caller]
fn assert_refused(client: &mut Client, call: &str, sqlstate: &str, named: &str) {
    let error = client
        .query(&format!("SELECT * FROM magic_link.{call}"), &[])
        .expect_sqlstate(sqlstate);
    let words = [Some(error.message()), error.detail()]
        .map(Option::unwrap_or_default)
        .join("\n");
    assert!(words.contains(named), "{call}: {words}");
}

/// Something in every table, so that a change would be seen.
fn inhabited() -> Database<'static> {
    let db = Database::new();
    db.organization("acme", &["member"]);
    db.sql(
        "INSERT INTO magic_link.organization_jit_email_domains VALUES ('acme', 'example.com');
         SELECT FROM magic_link.create_one_time_tokens('{ada@example.com, bob@example.com}')",
    );
    db
}

/// A call for each argument that may not be NULL, and the argument's name.
const NULLS: &[(&str, &str)] = &[
    ("normalize_email(NULL)", "email"),
    ("one_time_token_id(NULL)", "token"),
    (
        "compose_magic_link(NULL, repeat('0', 32), 'a@b')",
        "base_url",
    ),
    ("compose_magic_link('https://a', NULL, 'a@b')", "token"),
    (
        "compose_magic_link('https://a', repeat('0', 32), NULL)",
        "email",
    ),
    ("create_one_time_token(NULL)", "email"),
    ("create_one_time_tokens(NULL)", "emails"),
    ("redeem_one_time_token(NULL, 'a@b')", "token"),
    ("redeem_one_time_token('0', NULL)", "email"),
    ("try_redeem_one_time_token(NULL, 'a@b')", "token"),
    ("try_redeem_one_time_token('0', NULL)", "email"),
    ("check_one_time_token(NULL, 'a@b')", "token"),
    ("check_one_time_token('0', NULL)", "email"),
    ("session_switch_decision(NULL, 'a@b')", "token"),
    ("session_switch_decision('0', NULL)", "email"),
    ("one_time_token_is_sound(NULL)", "one_time_token"),
    ("revoke_one_time_token(NULL)", "id"),
    ("revoke_one_time_tokens(NULL)", "email"),
    ("delete_one_time_token(NULL)", "id"),
    ("purge_one_time_tokens(NULL)", "retention"),
    ("purge_one_time_tokens(batch_size => NULL)", "batch_size"),
    ("grant_backend(NULL)", "role"),
    ("revoke_backend(NULL)", "role"),
    ("grant_admin(NULL)", "role"),
    ("revoke_admin(NULL)", "role"),
];

#[test]
fn null_is_an_error_where_it_has_no_meaning() {
    let db = inhabited();
    let before = db.contents();
    let mut superuser = db.superuser();
    for (call, argument) in NULLS {
        let named = format!("{argument} must not be null");
        assert_refused(&mut superuser, call, "22004", &named);
    }
    assert_eq!(db.contents(), before);
}

/// Left out, an argument of a function has a default; what has none is in the table above.
#[test]
fn the_nulls_are_those_of_all_functions() {
    let db = Database::new();
    let rows = db
        .superuser()
        .query(
            "SELECT p.proname || '.' || p.proargnames[n]
               FROM pg_proc AS p, generate_series(1, p.pronargs - p.pronargdefaults) AS n
              WHERE p.pronamespace = 'magic_link'::regnamespace AND p.proname <> 'change_privileges'
              ORDER BY 1",
            &[],
        )
        .unwrap();
    let required: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut tested: Vec<_> = NULLS
        .iter()
        .map(|(call, argument)| format!("{}.{argument}", call.split('(').next().unwrap()))
        .filter(|name| !name.starts_with("purge_one_time_tokens"))
        .collect();
    tested.sort_unstable();
    assert_eq!(tested, required);
}

#[test]
fn a_dbas_argument_that_means_nothing_is_refused() {
    let db = inhabited();
    let before = db.contents();
    let unknown = "00000000-0000-7000-8000-000000000000";
    #[rustfmt::skip]
    let rows = [
        (format!("revoke_one_time_token('{unknown}')"), "02000", "no one-time token has this id"),
        (format!("revoke_one_time_token('{}')", uuid::Uuid::nil()), "02000", "no one-time token has this id"),
        (format!("revoke_one_time_token('{}')", uuid::Uuid::max()), "02000", "no one-time token has this id"),
        ("revoke_one_time_token('0')".to_owned(), "22P02", "uuid"),
        ("revoke_one_time_tokens('')".to_owned(), "22023", "invalid e-mail address"),
        ("revoke_one_time_tokens('ada')".to_owned(), "22023", "invalid e-mail address"),
        ("revoke_one_time_tokens('ada@example.com', '')".to_owned(), "22023", "invalid interaction_event"),
        ("revoke_one_time_tokens('ada@example.com', 'Sign In')".to_owned(), "22023", "invalid interaction_event"),
        ("purge_one_time_tokens('-1 second')".to_owned(), "22023", "invalid retention"),
        ("purge_one_time_tokens('1 day -25 hours')".to_owned(), "22023", "invalid retention"),
        ("purge_one_time_tokens('1 day', 0)".to_owned(), "22023", "invalid batch_size"),
        ("purge_one_time_tokens('1 day', -1)".to_owned(), "22023", "invalid batch_size"),
        ("purge_one_time_tokens('1 day', -2147483648)".to_owned(), "22023", "invalid batch_size"),
        ("purge_one_time_tokens('a while')".to_owned(), "22007", "interval"),
    ];
    let mut admin = db.admin();
    for (call, sqlstate, named) in &rows {
        assert_refused(&mut admin, call, sqlstate, named);
    }
    // An address like any other, and no pattern.
    let pattern = "SELECT magic_link.revoke_one_time_tokens('%@example.com')";
    assert_eq!(admin.query_one(pattern, &[]).unwrap().get::<_, i64>(0), 0);
    let deleted = format!("SELECT magic_link.delete_one_time_token('{unknown}')");
    assert!(!admin.query_one(&deleted, &[]).unwrap().get::<_, bool>(0));
    assert_eq!(db.contents(), before);
}

/// Of many addresses, the one that is wrong is named by its place, as SQL counts.
#[test]
fn what_is_no_list_of_addresses_is_refused_with_the_place() {
    let db = inhabited();
    let before = db.contents();
    let long = format!("'{{{}@example.com}}'", "a".repeat(300));
    let many = "(SELECT array_agg(n || '@example.com') || '5000@EXAMPLE.com'::text FROM generate_series(1, 5000) AS n)";
    #[rustfmt::skip]
    let rows = [
        ("'{}'", "22023", "The array is empty"),
        ("ARRAY[]::text[]", "22023", "The array is empty"),
        ("'{{ada@example.com}}'", "22023", "more than one dimension"),
        ("'{{ada@example.com, bob@example.com}, {eve@example.com, NULL}}'", "22023", "more than one dimension"),
        ("'{NULL}'", "22004", "emails[1]"),
        ("'{ada@example.com, NULL}'", "22004", "emails[2]"),
        ("'{ada@example.com, bob@example.com, \"\"}'", "22023", "emails[3]"),
        ("'{ada, bob}'", "22023", "emails[1]"),
        ("'{ada@example.com, bob@, eve}'", "22023", "emails[2]"),
        ("'{ada@example.com, ada@example.com}'", "22023", "emails[2]: It is the same address as emails[1]."),
        // Only the normal form tells.
        ("'{eve@example.com, ada@example.com, bob@example.com, \" ADA@Example.COM\"}'", "22023",
         "emails[4]: It is the same address as emails[2]."),
        ("'{ada@bücher.example, ada@xn--bcher-kva.example}'", "22023", "emails[2]: It is the same address as emails[1]."),
        // An array that counts from elsewhere: still the place in the list.
        ("'[5:6]={ada@example.com, ada}'", "22023", "emails[2]"),
        (many, "22023", "emails[5001]: It is the same address as emails[5000]."),
        (&long, "22023", "emails[1]"),
    ];
    let mut backend = db.backend();
    for (emails, sqlstate, named) in rows {
        let call = format!("create_one_time_tokens({emails})");
        assert_refused(&mut backend, &call, sqlstate, named);
    }
    assert_eq!(db.contents(), before);
}

#[test]
fn a_role_that_is_not_there_gets_and_loses_nothing() {
    let db = inhabited();
    let mut superuser = db.superuser();
    for function in [
        "grant_backend",
        "revoke_backend",
        "grant_admin",
        "revoke_admin",
    ] {
        for role in ["'nobody_is_called_this'", "99999::oid", "0::oid", "'-'"] {
            let call = format!("{function}({role}::regrole)");
            assert_refused(&mut superuser, &call, "42704", "does not exist");
        }
    }
}

#[test]
fn nothing_is_written_in_a_read_only_transaction() {
    let db = inhabited();
    let before = db.contents();
    let mut superuser = db.superuser();
    let id = uuid::Uuid::nil();
    for call in [
        "create_one_time_token('ada@example.com')".to_owned(),
        "create_one_time_tokens('{ada@example.com}')".to_owned(),
        "redeem_one_time_token('0', 'ada@example.com')".to_owned(),
        "try_redeem_one_time_token('0', 'ada@example.com')".to_owned(),
        format!("revoke_one_time_token('{id}')"),
        "revoke_one_time_tokens('ada@example.com')".to_owned(),
        format!("delete_one_time_token('{id}')"),
        "purge_one_time_tokens()".to_owned(),
    ] {
        superuser.batch_execute("BEGIN READ ONLY").unwrap();
        assert_refused(&mut superuser, &call, "25006", "read-only");
        superuser.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(db.contents(), before);
}
