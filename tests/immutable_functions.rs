//! The IMMUTABLE functions, which read no table: addresses, ids of tokens, and links.

use magic_link_harness::postgres::types::ToSql;
use magic_link_harness::{Calls, Database, ExpectSqlState};
use url::Url;

const ADA: &str = "ada+tag@example.com";
const COMPOSE: &str = "SELECT magic_link.compose_magic_link($1, $2, $3, $4::text::jsonb, $5, $6)";

#[test]
fn an_address_has_one_normal_form() {
    let db = Database::new();
    let mut backend = db.backend();
    let mut normalize = |email: &str| -> String {
        backend
            .query_one("SELECT magic_link.normalize_email($1)", &[&email])
            .unwrap_or_else(|error| panic!("{email}: {error:?}"))
            .get(0)
    };
    for (email, normal) in [
        ("ada@example.com", "ada@example.com"),
        ("  Ada@EXAMPLE.Com\t", "ada@example.com"),
        (
            "Ada.Lovelace+Tag@example.com",
            "ada.lovelace+tag@example.com",
        ),
        ("ada@Bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
        // Outside ASCII upper and lower case may be two mailboxes.
        ("ÄDA@example.com", "Äda@example.com"),
        ("o'hara@example.com", "o'hara@example.com"),
        ("ada@localhost", "ada@localhost"),
    ] {
        assert_eq!(normalize(email), normal);
        assert_eq!(normalize(normal), normal);
    }
    let query = "SELECT magic_link.normalize_email($1)";
    backend
        .query(query, &[&None::<&str>])
        .expect_sqlstate("22004");
    for email in ["", "ada", "ada@", "a b@example.com", "ada@exa mple.com"] {
        backend.query(query, &[&email]).expect_sqlstate("22023");
    }
}

#[test]
fn an_id_is_of_a_token_alone() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create(ADA, "{}").unwrap();
    let query = "SELECT magic_link.one_time_token_id($1)";
    let id: uuid::Uuid = backend.query_one(query, &[&issued.token]).unwrap().get(0);
    assert_eq!(id, issued.id);
    backend
        .query(query, &[&None::<&str>])
        .expect_sqlstate("22004");
    for token in [
        "",
        "malformed",
        &issued.token[1..],
        &format!("{} ", issued.token),
    ] {
        backend.query(query, &[&token]).expect_sqlstate("22023");
    }
}

#[test]
fn a_link_reads_back_as_what_went_into_it() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = backend.create(ADA, "{}").unwrap().token;
    let params = r#"{"next": "/a b?c=d&e=f#g", "name": "é+ü %20 😀", "n": 1.50, "yes": true}"#;
    let base = "https://app.example.com/in?keep=1%2F2&keep=a+b#part=1";
    let email = "Ada+Tag@bücher.example";

    let row = backend
        .query_one(
            COMPOSE,
            &[&base, &token, &email, &params, &Some("t"), &Some("e")],
        )
        .unwrap();

    let link = Url::parse(row.get(0)).unwrap();
    assert_eq!(
        (link.host_str(), link.path()),
        (Some("app.example.com"), "/in")
    );
    assert_eq!(link.fragment(), Some("part=1"));
    let pairs: Vec<_> = link.query_pairs().into_owned().collect();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(pairs[..2], [("keep", "1/2"), ("keep", "a b")]);
    let token_and_email = [
        ("t", token.as_str()),
        ("e", "ada+tag@xn--bcher-kva.example"),
    ];
    assert_eq!(pairs[6..], token_and_email);
    let mut params: Vec<_> = pairs[2..6].to_vec();
    params.sort_unstable();
    let expected = [
        ("n", "1.50"),
        ("name", "é+ü %20 😀"),
        ("next", "/a b?c=d&e=f#g"),
        ("yes", "true"),
    ];
    assert_eq!(params, expected);
    assert!(
        !link.as_str().contains("+tag"),
        "a plus sign would read back as a blank: {link}"
    );
}

#[test]
fn a_link_can_be_redeemed() {
    let db = Database::new();
    let mut backend = db.backend();
    let issued = backend.create(ADA, "{}").unwrap();
    let row = backend
        .query_one(
            "SELECT magic_link.compose_magic_link('https://app.example.com/in', $1, $2)",
            &[&issued.token, &issued.email],
        )
        .unwrap();
    let link = Url::parse(row.get(0)).unwrap();
    let value = |name: &str| {
        link.query_pairs()
            .find(|(key, _)| key == name)
            .unwrap()
            .1
            .into_owned()
    };
    assert!(backend.redeem(&value("token"), &value("email")).is_ok());
}

#[test]
fn defaults_and_null_of_a_link() {
    let db = Database::new();
    let mut backend = db.backend();
    let token = "0".repeat(32);
    let base = "https://app.example.com/in";
    let none = None::<&str>;
    let expected = format!("{base}?token={token}&email=ada%2Btag%40example.com");
    let row = backend
        .query_one(COMPOSE, &[&base, &token, &ADA, &none, &none, &none])
        .unwrap();
    assert_eq!(row.get::<_, String>(0), expected);
    let row = backend
        .query_one(
            "SELECT magic_link.compose_magic_link($1, $2, $3)",
            &[&base, &token, &ADA],
        )
        .unwrap();
    assert_eq!(row.get::<_, String>(0), expected);

    let nulls: [[&(dyn ToSql + Sync); 3]; 3] = [
        [&none, &token, &ADA],
        [&base, &none, &ADA],
        [&base, &token, &none],
    ];
    for [base, token, email] in nulls {
        let answer = backend.query(COMPOSE, &[base, token, email, &none, &none, &none]);
        answer.expect_sqlstate("22004");
    }
}

#[test]
fn what_cannot_be_a_link_is_refused_by_argument() {
    let db = Database::new();
    let mut backend = db.backend();
    let (base, token) = ("https://app.example.com/in", "0".repeat(32));
    let token = token.as_str();
    // base_url, token, email, params, token_param, email_param, what the DETAIL names
    #[rustfmt::skip]
    let rows = [
        ("", token, ADA, "{}", "t", "e", "base_url"),
        ("/in", token, ADA, "{}", "t", "e", "base_url"),
        ("app.example.com", token, ADA, "{}", "t", "e", "base_url"),
        ("https://", token, ADA, "{}", "t", "e", "base_url"),
        ("mailto:ada@example.com", token, ADA, "{}", "t", "e", "base_url"),
        ("https://app.example.com?t=1", token, ADA, "{}", "t", "e", "base_url"),
        (base, "malformed", ADA, "{}", "t", "e", "token"),
        (base, "", ADA, "{}", "t", "e", "token"),
        (base, token, "ada", "{}", "t", "e", "address"),
        (base, token, ADA, "[]", "t", "e", "params"),
        (base, token, ADA, "null", "t", "e", "params"),
        (base, token, ADA, "\"a=b\"", "t", "e", "params"),
        (base, token, ADA, r#"{"next": null}"#, "t", "e", "next"),
        (base, token, ADA, r#"{"next": ["a"]}"#, "t", "e", "next"),
        (base, token, ADA, r#"{"next": {"a": 1}}"#, "t", "e", "next"),
        (base, token, ADA, r#"{"t": "x"}"#, "t", "e", "params"),
        (base, token, ADA, r#"{"e": "x"}"#, "t", "e", "params"),
        (base, token, ADA, "{}", "", "e", "token_param"),
        (base, token, ADA, "{}", "t", "", "email_param"),
        (base, token, ADA, "{}", "same", "same", "token_param"),
    ];
    for (base, token, email, params, token_param, email_param, named) in rows {
        let row = format!("{base} {token} {email} {params} {token_param} {email_param}");
        let error = backend
            .query(
                COMPOSE,
                &[&base, &token, &email, &params, &token_param, &email_param],
            )
            .expect_sqlstate("22023");
        let detail = error.detail().unwrap_or_default();
        assert!(detail.contains(named), "{row}: {error:?}");
    }
}
