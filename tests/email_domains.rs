//! `organization_jit_email_domains`: which users join which organizations because of their e-mail domain.

use magic_link_harness::{Calls, Database, ExpectSqlState, Redeemed, concurrently};
use serde_json::{Value, json};

/// A database with organizations, each with a default role of its own name.
fn organizations(ids: &[&str]) -> Database<'static> {
    let db = Database::new();
    for id in ids {
        db.organization(id, &[&format!("{id}-role")]);
    }
    db
}

fn domain(db: &Database, organization: &str, domain: &str) {
    db.superuser()
        .execute(
            "INSERT INTO magic_link.organization_jit_email_domains VALUES ($1, $2)",
            &[&organization, &domain],
        )
        .unwrap();
}

fn redeem(db: &Database, email: &str, context: &Value, event: Option<&str>) -> Redeemed {
    let mut backend = db.backend();
    let issued = backend.create(email, &context.to_string()).unwrap();
    backend.redeem_in(event, &issued.token, email).unwrap()
}

/// Organizations and what each status is, in the order of the answer.
fn joined(redeemed: &Redeemed) -> Vec<(&str, &str)> {
    let memberships = redeemed.memberships.as_array().unwrap();
    let text = |value: &Value, key: &str| -> &'static str {
        String::leak(value[key].as_str().unwrap().to_owned())
    };
    memberships
        .iter()
        .map(|m| (text(m, "organizationId"), text(m, "status")))
        .collect()
}

#[test]
fn who_is_created_joins_the_organizations_of_the_domain_and_the_token_once_and_in_order() {
    let db = organizations(&["a", "b", "c", "d"]);
    for organization in ["d", "b", "a"] {
        domain(&db, organization, "example.com");
    }
    domain(&db, "c", "example.org");
    let context = json!({"jitOrganizationIds": ["c", "b"]});
    let redeemed = redeem(&db, "Ada@Example.com", &context, None);
    assert!(redeemed.user_created);
    let roles = |id: &str| json!({"organizationId": id, "status": "added", "roleIds": [format!("{id}-role")]});
    assert_eq!(
        redeemed.memberships,
        json!([roles("a"), roles("b"), roles("c"), roles("d")])
    );
    assert_eq!(db.count("magic_link.organization_memberships"), 4);
    // The row in one_time_tokens keeps what the token named.
    let named: Vec<String> = db.value(
        "SELECT organization_ids FROM magic_link.one_time_tokens",
        &[],
    );
    assert_eq!(named, ["b", "c"]);
}

/// In place of defaults, for an organization that the token names; the domain's keeps its own.
#[test]
fn roles_that_a_token_names_are_for_its_organizations_alone() {
    let db = organizations(&["a", "b"]);
    db.roles(&["named"]);
    domain(&db, "a", "example.com");
    domain(&db, "b", "example.com");
    let context = json!({"jitOrganizationIds": ["b"], "organizationRoleIds": {"b": ["named"]}});
    let redeemed = redeem(&db, "ada@example.com", &context, None);
    let expected = json!([
        {"organizationId": "a", "status": "added", "roleIds": ["a-role"]},
        {"organizationId": "b", "status": "added", "roleIds": ["named"]},
    ]);
    assert_eq!(redeemed.memberships, expected);
}

#[test]
fn who_is_there_already_joins_by_the_token_alone() {
    let db = organizations(&["a", "b"]);
    domain(&db, "a", "example.com");
    db.sql("INSERT INTO magic_link.users (email) VALUES ('ada@example.com')");
    let context = json!({"jitOrganizationIds": ["b"]});
    for (context, event, expected) in [
        (json!({}), None, vec![]),
        (json!({}), Some("Register"), vec![]),
        (json!({}), Some("SignIn"), vec![]),
        (context.clone(), None, vec![("b", "added")]),
        (context, Some("SignIn"), vec![("b", "already_member")]),
    ] {
        let redeemed = redeem(&db, "ada@example.com", &context, event);
        assert!(!redeemed.user_created);
        assert_eq!(joined(&redeemed), expected, "{context} {event:?}");
    }
    // Nor does a second token join the one whom the first has created, and who left since.
    let first = redeem(&db, "bob@example.com", &json!({}), None);
    assert_eq!(joined(&first), [("a", "added")]);
    db.sql("DELETE FROM magic_link.organization_memberships");
    assert_eq!(
        joined(&redeem(&db, "bob@example.com", &json!({}), None)),
        []
    );
}

/// Signing in creates nobody, so nobody joins.
#[test]
fn an_event_that_creates_nobody_joins_nobody() {
    let db = organizations(&["a"]);
    domain(&db, "a", "example.com");
    let before = db.contents();
    for event in ["SignIn", "ForgotPassword"] {
        let mut backend = db.backend();
        let issued = backend.create("ada@example.com", "{}").unwrap();
        let refused = backend.redeem_in(Some(event), &issued.token, "ada@example.com");
        refused.expect_sqlstate("OT007");
        db.admin().delete(issued.id).unwrap();
    }
    assert_eq!(db.contents(), before);
    assert_eq!(
        joined(&redeem(
            &db,
            "ada@example.com",
            &json!({}),
            Some("Register")
        )),
        [("a", "added")]
    );
}

#[test]
fn a_domain_is_the_whole_of_what_follows_the_at() {
    let db = organizations(&["a"]);
    domain(&db, "a", "example.com");
    for email in [
        "ada@mail.example.com",
        "ada@com",
        "ada@xexample.com",
        "ada@example.com.evil.example",
        "example.com@example.org",
        "ada@example.co",
    ] {
        assert_eq!(joined(&redeem(&db, email, &json!({}), None)), [], "{email}");
    }
    for email in [
        "ada@EXAMPLE.com",
        " x@example.com ",
        "a+b@example.com",
        "é@example.com",
    ] {
        assert_eq!(
            joined(&redeem(&db, email, &json!({}), None)),
            [("a", "added")],
            "{email}"
        );
    }
}

#[test]
fn an_international_domain_is_stored_in_ascii() {
    let db = organizations(&["a"]);
    domain(&db, "a", "xn--bcher-kva.example");
    for email in [
        "ada@bücher.example",
        "bob@BÜCHER.example",
        "eve@xn--bcher-kva.example",
    ] {
        assert_eq!(
            joined(&redeem(&db, email, &json!({}), None)),
            [("a", "added")],
            "{email}"
        );
    }
}

#[test]
fn a_domain_that_is_not_in_normal_form_is_not_kept() {
    let db = organizations(&["a"]);
    let insert = |domain: Option<&str>| {
        db.superuser().execute(
            "INSERT INTO magic_link.organization_jit_email_domains VALUES ('a', $1)",
            &[&domain],
        )
    };
    let long = ["b".repeat(63).as_str(); 4].join(".");
    #[rustfmt::skip]
    let rows = [
        ("Example.com", "23514"), ("EXAMPLE.COM", "23514"), ("bücher.example", "23514"), ("example.com ", "23514"),
        ("example.com\n", "23514"), ("example.com.", "22023"), ("ⅽom", "23514"),
        ("", "22023"), (" ", "22023"), (".", "22023"), (".example.com", "22023"), ("example..com", "22023"),
        ("@example.com", "22023"), ("a@example.com", "22023"), ("*.example.com", "22023"), ("-a.example", "22023"),
        ("exa mple.com", "22023"), ("[127.0.0.1]", "22023"), (" example.com", "22023"), (&long, "22023"), ("%", "22023"),
    ];
    for (domain, sqlstate) in rows {
        let answer = insert(Some(domain));
        assert!(answer.is_err(), "{domain:?} was kept");
        answer.expect_sqlstate(sqlstate);
    }
    insert(None).expect_sqlstate("23502");
    insert(Some("example.com")).unwrap();
    insert(Some("localhost")).unwrap();
    insert(Some("example.com")).expect_sqlstate("23505");
    let elsewhere =
        "INSERT INTO magic_link.organization_jit_email_domains VALUES ('b', 'example.com')";
    db.superuser()
        .batch_execute(elsewhere)
        .expect_sqlstate("23503");
    let update =
        "UPDATE magic_link.organization_jit_email_domains SET email_domain = upper(email_domain)";
    db.superuser()
        .batch_execute(update)
        .expect_sqlstate("23514");
}

#[test]
fn an_organization_takes_its_domains_along() {
    let db = organizations(&["a", "b"]);
    domain(&db, "a", "example.com");
    domain(&db, "b", "example.com");
    db.sql("UPDATE magic_link.organizations SET id = 'z' WHERE id = 'b'");
    assert_eq!(
        db.count("magic_link.organization_jit_email_domains WHERE organization_id = 'z'"),
        1
    );
    db.sql("DELETE FROM magic_link.organizations WHERE id = 'a'");
    assert_eq!(db.count("magic_link.organization_jit_email_domains"), 1);
    assert_eq!(
        joined(&redeem(&db, "ada@example.com", &json!({}), None)),
        [("z", "added")]
    );
}

#[test]
fn what_a_domain_did_is_answered_again() {
    let db = organizations(&["a"]);
    domain(&db, "a", "example.com");
    db.set("replay_window", 600);
    let mut backend = db.backend();
    let token = backend.create("ada@example.com", "{}").unwrap().token;
    let first = backend.redeem(&token, "ada@example.com").unwrap();
    assert_eq!(joined(&first), [("a", "added")]);
    db.sql("DELETE FROM magic_link.organization_jit_email_domains");
    let again = backend.redeem(&token, "ada@example.com").unwrap();
    assert_eq!(
        (again.replayed, again.memberships),
        (true, first.memberships)
    );
}

/// Of tokens that are redeemed at once for one new address, one creates the user, and it alone joins.
#[test]
fn of_redemptions_at_once_the_one_that_creates_the_user_joins_it() {
    let db = organizations(&["a"]);
    domain(&db, "a", "example.com");
    let claims: Vec<_> = (0..8)
        .map(|_| {
            let mut backend = db.backend();
            let token = backend.create("ada@example.com", "{}").unwrap().token;
            (backend, token)
        })
        .collect();
    let answers = concurrently(claims, |(mut backend, token)| {
        backend.redeem(&token, "ada@example.com").unwrap()
    });
    for answer in &answers {
        let expected = if answer.user_created {
            vec![("a", "added")]
        } else {
            vec![]
        };
        assert_eq!(joined(answer), expected);
    }
    assert_eq!(
        answers.iter().filter(|answer| answer.user_created).count(),
        1
    );
}
