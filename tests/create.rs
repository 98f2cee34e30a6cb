//! `create_one_time_token`: the row that it returns, the row that it stores, and what it refuses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use magic_link_harness::postgres::SimpleQueryMessage;
use magic_link_harness::{Calls, Database, ExpectSqlState};
use sha2::{Digest, Sha256};

const MAX_EXPIRES_IN: i32 = 604_800;

fn millis(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap().as_millis()
}

fn base62_number(digits: &str) -> u128 {
    let digits = digits.chars().map(|digit| match digit {
        '0'..='9' => digit as u128 - '0' as u128,
        'A'..='Z' => digit as u128 - 'A' as u128 + 10,
        _ => digit as u128 - 'a' as u128 + 36,
    });
    digits.fold(0, |number, digit| number * 62 + digit)
}

#[test]
fn the_answer_is_a_token_for_the_normalised_address() {
    let db = Database::new();
    let mut backend = db.backend();

    let before: SystemTime = db.value("SELECT clock_timestamp()", &[]);
    let issued = backend
        .create("  Ada@EXAMPLE.com ", r#"{"returnTo": "/inbox"}"#)
        .unwrap();
    let after: SystemTime = db.value("SELECT clock_timestamp()", &[]);

    assert_eq!(issued.email, "ada@example.com");
    assert_eq!(issued.status, "active");
    assert_eq!(issued.context, r#"{"returnTo": "/inbox"}"#);
    assert!((before..=after).contains(&issued.created_at));
    assert_eq!(
        issued.expires_at,
        issued.created_at + Duration::from_secs(600)
    );

    assert_eq!(issued.token.len(), 32);
    assert!(issued.token.chars().all(|c| c.is_ascii_alphanumeric()));
    assert_eq!(base62_number(&issued.token[..8]), millis(issued.created_at));

    assert_eq!(issued.id.get_version_num(), 7);
    assert_eq!(issued.id.as_u128() >> 80, millis(issued.created_at));
    let of_token: uuid::Uuid = backend
        .query_one("SELECT magic_link.one_time_token_id($1)", &[&issued.token])
        .unwrap()
        .get(0);
    assert_eq!(issued.id, of_token);
}

#[test]
fn the_stored_row_has_the_hash_and_everything_but_the_token() {
    let db = Database::new();
    db.organization("a", &[]);
    db.organization("b", &[]);
    let context = r#"{"jitOrganizationIds": ["b", "a", "b"], "interactionEvent": "Register"}"#;
    let issued = db.backend().create("ada@example.com", context).unwrap();

    let row = db
        .superuser()
        .query_one(
            "SELECT *, context::text AS context_text FROM magic_link.one_time_tokens WHERE id = $1",
            &[&issued.id],
        )
        .unwrap();
    let hash: Vec<u8> = row.get("token_hash");
    assert_eq!(hash, Sha256::digest(&issued.token).as_slice());
    assert_eq!(row.get::<_, String>("email"), "ada@example.com");
    assert_eq!(row.get::<_, Vec<String>>("organization_ids"), ["a", "b"]);
    assert_eq!(row.get::<_, String>("interaction_event"), "Register");
    assert_eq!(row.get::<_, String>("context_text"), issued.context);
    assert_eq!(row.get::<_, SystemTime>("created_at"), issued.created_at);
    assert_eq!(row.get::<_, SystemTime>("expires_at"), issued.expires_at);
    for end in ["consumed_at", "revoked_at"] {
        assert_eq!(row.get::<_, Option<SystemTime>>(end), None);
    }
    for who in ["consumed_by", "revoked_by"] {
        assert_eq!(row.get::<_, Option<String>>(who), None);
    }
}

#[test]
fn tokens_differ_and_sort_by_age() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut last = String::new();
    for _ in 0..100 {
        let token = backend.create("ada@example.com", "{}").unwrap().token;
        // Within a millisecond the random part decides, so only the time is in order.
        assert!(last.is_empty() || last[..8] <= token[..8]);
        assert_ne!(last, token);
        last = token;
    }
}

#[test]
fn defaults_and_null_mean_ten_minutes_and_an_empty_context() {
    let db = Database::new();
    let mut backend = db.backend();
    let calls = [
        "'ada@example.com'",
        "email => 'ada@example.com'",
        "'ada@example.com', NULL, NULL",
        "'ada@example.com', 600, '{}'",
    ];
    for arguments in calls {
        let row = backend
            .query_one(
                &format!(
                    "SELECT extract(epoch FROM expires_at - created_at)::integer AS lifetime, context::text
                       FROM magic_link.create_one_time_token({arguments})"
                ),
                &[],
            )
            .unwrap();
        assert_eq!(row.get::<_, i32>("lifetime"), 600, "{arguments}");
        assert_eq!(row.get::<_, String>("context"), "{}", "{arguments}");
    }
}

#[test]
fn a_null_address_is_an_error() {
    let db = Database::new();
    let query = "SELECT * FROM magic_link.create_one_time_token(NULL)";
    let error = db.backend().query(query, &[]).expect_sqlstate("22004");
    assert!(error.message().contains("email"), "{error:?}");
}

#[test]
fn an_invalid_address_is_refused() {
    let db = Database::new();
    let mut backend = db.backend();
    let long = format!("{}@{}.example.com", "a".repeat(60), "b".repeat(63));
    let too_long = format!(
        "{}@{}",
        "a".repeat(64),
        ["b".repeat(63).as_str(); 3].join(".")
    );
    assert!(backend.create(&long, "{}").is_ok());
    for email in [
        "",
        "  ",
        "ada",
        "@",
        "ada@",
        "@example.com",
        "a b@example.com",
        "a@b@example.com",
        "ada@example..com",
        "ada@-example.com",
        "ada\n@example.com",
        "ada@example.com\r\nBcc: eve@example.com",
        "Ada <ada@example.com>",
        "\"ada\"@example.com",
        &too_long,
    ] {
        let error = backend.create(email, "{}").expect_sqlstate("22023");
        assert!(error.detail().is_some(), "{error:?}");
    }
    assert_eq!(db.count("magic_link.one_time_tokens"), 1);
}

#[test]
fn a_lifetime_has_bounds() {
    let db = Database::new();
    let mut backend = db.backend();
    for expires_in in [1, 600, MAX_EXPIRES_IN] {
        let issued = backend
            .create_for("ada@example.com", Some(expires_in), None)
            .unwrap();
        let lifetime = issued.expires_at.duration_since(issued.created_at).unwrap();
        assert_eq!(lifetime, Duration::from_secs(expires_in as u64));
    }
    for expires_in in [0, -1, MAX_EXPIRES_IN + 1, i32::MAX, i32::MIN] {
        let error = backend
            .create_for("ada@example.com", Some(expires_in), None)
            .expect_sqlstate("22023");
        assert!(error.detail().unwrap().contains("expires_in"), "{error:?}");
    }
}

#[test]
fn a_superuser_moves_the_longest_lifetime_for_a_role_or_a_database() {
    let db = Database::new();
    let (role, name) = (db.backend_role(), db.name());
    let longest = i64::from(i32::MAX);
    #[rustfmt::skip]
    let steps = [
        (format!("ALTER DATABASE {name} SET magic_link.max_expires_in = 60"), 60),
        (format!("ALTER DATABASE {name} SET magic_link.max_expires_in = '30d'"), 30 * 86_400),
        (format!("ALTER ROLE {role} SET magic_link.max_expires_in = 700"), 700),
        (format!("ALTER ROLE {role} SET magic_link.max_expires_in = {longest}"), longest),
    ];
    for (alter, max) in steps {
        db.sql(&alter);
        let mut backend = db.backend();
        let mut create = |expires_in: i64| {
            backend.create_for("ada@example.com", i32::try_from(expires_in).ok(), None)
        };
        let issued = create(max).expect(&alter);
        let lifetime = issued.expires_at.duration_since(issued.created_at).unwrap();
        assert_eq!(lifetime.as_secs(), max as u64, "{alter}");
        if max < longest {
            create(max + 1).expect_sqlstate("22023");
        }
    }
}

/// NULL asks for nothing, so the longest life does not stand against it; left out it is 600.
#[test]
fn null_is_never_longer_than_the_longest_lifetime() {
    let db = Database::new();
    db.sql(&format!(
        "ALTER ROLE {} SET magic_link.max_expires_in = 60",
        db.backend_role()
    ));
    let mut backend = db.backend();
    let issued = backend.create_for("ada@example.com", None, None).unwrap();
    let lifetime = issued.expires_at.duration_since(issued.created_at).unwrap();
    assert_eq!(lifetime.as_secs(), 60);
    let left_out = "SELECT FROM magic_link.create_one_time_token('ada@example.com')";
    backend.execute(left_out, &[]).expect_sqlstate("22023");
}

#[test]
fn a_backend_cannot_lengthen_a_lifetime() {
    let db = Database::new();
    let role = db.backend_role();
    let set = "SET magic_link.max_expires_in = 2000000";
    let create = |backend: &mut magic_link_harness::postgres::Client| {
        backend.create_for("ada@example.com", Some(MAX_EXPIRES_IN + 1), None)
    };

    let mut backend = db.backend();
    backend.create("ada@example.com", "{}").unwrap();
    backend.batch_execute(set).expect_sqlstate("42501");
    create(&mut backend).expect_sqlstate("22023");

    // Before the library is loaded PostgreSQL knows nothing of the setting and lets it be set.
    let mut backend = db.backend();
    let _ = backend.batch_execute(set);
    create(&mut backend).expect_sqlstate("22023");
    let mut backend = db.cluster().config(db.name(), &role);
    let backend = backend.options("-c magic_link.max_expires_in=2000000");
    let mut backend = backend
        .connect(magic_link_harness::postgres::NoTls)
        .unwrap();
    // See limits.rs: a client that asks for what it may not set is served nothing.
    create(&mut backend).expect_sqlstate("42501");

    for whom in [role.clone(), format!("{role} IN DATABASE {}", db.name())] {
        let alter = format!("ALTER ROLE {whom} SET magic_link.max_expires_in = 2000000");
        db.backend().batch_execute(&alter).expect_sqlstate("42501");
    }
}

#[test]
fn a_role_that_was_granted_the_setting_can_change_it() {
    let db = Database::new();
    let role = db.backend_role();
    db.sql(&format!(
        "LOAD 'magic_link'; GRANT SET ON PARAMETER magic_link.max_expires_in TO {role}"
    ));
    let mut backend = db.backend();
    backend.create("ada@example.com", "{}").unwrap();
    backend
        .batch_execute("SET magic_link.max_expires_in = 2000000")
        .unwrap();
    assert!(
        backend
            .create_for("ada@example.com", Some(2_000_000), None)
            .is_ok()
    );
    backend
        .batch_execute("SET magic_link.max_expires_in = 0")
        .expect_sqlstate("22023");
}

#[test]
fn a_malformed_context_is_refused_with_its_key() {
    let db = Database::new();
    db.organization("acme", &[]);
    let mut backend = db.backend();
    #[rustfmt::skip]
    let rows = [
        ("[]", "context"),
        ("null", "context"),
        ("\"{}\"", "context"),
        ("1", "context"),
        (r#"{"jitOrganizationIds": null}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": "acme"}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": {"acme": 1}}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": [1]}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": [1e400]}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": ["acme", null]}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": [["acme"]]}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": [""]}"#, "jitOrganizationIds"),
        (r#"{"organizationRoleIds": null}"#, "organizationRoleIds"),
        (r#"{"organizationRoleIds": []}"#, "organizationRoleIds"),
        (r#"{"organizationRoleIds": "acme"}"#, "organizationRoleIds"),
        (r#"{"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": null}}"#, "organizationRoleIds"),
        (r#"{"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": "r"}}"#, "organizationRoleIds"),
        (r#"{"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": [1]}}"#, "organizationRoleIds"),
        (r#"{"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": [""]}}"#, "organizationRoleIds"),
        // Roles of an organization that nobody is to join would be granted to nobody.
        (r#"{"organizationRoleIds": {"acme": []}}"#, "organizationRoleIds"),
        (r#"{"interactionEvent": null}"#, "interactionEvent"),
        (r#"{"interactionEvent": 1}"#, "interactionEvent"),
        (r#"{"interactionEvent": ["SignIn"]}"#, "interactionEvent"),
        (r#"{"interactionEvent": ""}"#, "interactionEvent"),
        (r#"{"interactionEvent": "Sign In"}"#, "interactionEvent"),
        (r#"{"interactionEvent": " SignIn"}"#, "interactionEvent"),
        (r#"{"interactionEvent": "SignIn\n"}"#, "interactionEvent"),
    ];
    for (context, key) in rows {
        let error = backend
            .create("ada@example.com", context)
            .expect_sqlstate("22023");
        let detail = error.detail().unwrap_or_default();
        assert!(detail.contains(key), "{context}: {error:?}");
    }
    assert_eq!(db.count("magic_link.one_time_tokens"), 0);
}

#[test]
fn an_unknown_organization_or_role_is_a_broken_reference() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let mut backend = db.backend();
    #[rustfmt::skip]
    let rows = [
        (r#"{"jitOrganizationIds": ["acme", "nowhere"]}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": ["ACME"]}"#, "jitOrganizationIds"),
        (r#"{"jitOrganizationIds": ["acme"], "organizationRoleIds": {"acme": ["member", "nobody"]}}"#, "organizationRoleIds"),
    ];
    for (context, key) in rows {
        let error = backend
            .create("ada@example.com", context)
            .expect_sqlstate("23503");
        assert!(
            error.detail().unwrap().contains(key),
            "{context}: {error:?}"
        );
    }
    assert_eq!(db.count("magic_link.one_time_tokens"), 0);
}

#[test]
fn a_context_has_at_most_16_kib_and_100_organizations() {
    let db = Database::new();
    db.sql(
        "INSERT INTO magic_link.organizations (id, name)
         SELECT 'organization-' || n, n FROM generate_series(1, 101) AS n",
    );
    let mut backend = db.backend();

    // `{"a": ""}` is 9 bytes.
    let padded = |bytes: usize| format!(r#"{{"a": "{}"}}"#, "x".repeat(bytes - 9));
    assert!(backend.create("ada@example.com", &padded(16_384)).is_ok());
    let error = backend
        .create("ada@example.com", &padded(16_385))
        .expect_sqlstate("22023");
    assert!(error.detail().unwrap().contains("context"), "{error:?}");

    let joining = |count: usize| {
        let ids: Vec<_> = (1..=count)
            .map(|n| format!("\"organization-{n}\""))
            .collect();
        format!(r#"{{"jitOrganizationIds": [{}]}}"#, ids.join(", "))
    };
    let issued = backend.create("ada@example.com", &joining(100)).unwrap();
    let redeemed = backend.redeem(&issued.token, "ada@example.com").unwrap();
    assert_eq!(redeemed.memberships.as_array().unwrap().len(), 100);
    let error = backend
        .create("ada@example.com", &joining(101))
        .expect_sqlstate("22023");
    assert!(
        error.detail().unwrap().contains("jitOrganizationIds"),
        "{error:?}"
    );
}

#[test]
fn what_is_not_ours_in_a_context_comes_back_whole() {
    let db = Database::new();
    let mut backend = db.backend();
    let deep = format!(r#"{{"deep": {}{}}}"#, "[".repeat(2000), "]".repeat(2000));
    let long = format!(r#"{{"long": "{}"}}"#, "x".repeat(16_000));
    for context in [
        "{}",
        r#"{"number": 1e400, "small": -1.50, "long": 12345678901234567890.123456789}"#,
        r#"{"text": "é \u00e9 \ud83d\ude00 \n %s %n ' \" \\", "": null, "a": {"b": [true, false, null]}}"#,
        r#"{"jitorganizationids": 1, "JitOrganizationIds": 2, "interactionevent": 3, "x": {"interactionEvent": 4}}"#,
        &deep,
        &long,
    ] {
        let kept: String = db.value("SELECT $1::text::jsonb::text", &[&context]);
        let issued = backend.create("ada@example.com", context).unwrap();
        assert_eq!(issued.context, kept);
        let redeemed = backend.redeem(&issued.token, "ada@example.com").unwrap();
        assert_eq!(redeemed.context, kept);
    }
}

#[test]
fn a_token_of_a_transaction_that_was_rolled_back_was_never_issued() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut transaction = backend.transaction().unwrap();
    let issued = transaction.create("ada@example.com", "{}").unwrap();
    assert_eq!(
        transaction
            .check_in(None, &issued.token, "ada@example.com")
            .unwrap(),
        "ok"
    );
    transaction.rollback().unwrap();
    backend
        .redeem(&issued.token, "ada@example.com")
        .expect_sqlstate("OT001");
}

/// The simple protocol, as psql uses it, sees the same functions.
#[test]
fn the_whole_row_can_be_read_as_text() {
    let db = Database::new();
    let answer = db
        .backend()
        .simple_query("SELECT * FROM magic_link.create_one_time_token('ada@example.com')")
        .unwrap();
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let columns: Vec<_> = row.unwrap().columns().iter().map(|c| c.name()).collect();
    assert_eq!(
        columns,
        [
            "id",
            "token",
            "email",
            "context",
            "status",
            "created_at",
            "expires_at"
        ]
    );
}
