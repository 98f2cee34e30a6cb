//! What the README tells a newcomer to run, run as it stands there.

use magic_link_harness::postgres::Client;
use magic_link_harness::{Database, readme_block};

#[path = "../pgrx-tests/examples/sign_in.rs"]
mod sign_in;
use sign_in::{Page, invite, redeem};

const EXAMPLE: &str = include_str!("../pgrx-tests/examples/sign_in.rs");

#[test]
fn the_sql_runs_in_psql() {
    let database = Database::new();
    let sql = readme_block("## In ten lines of SQL", "sql");
    let (dba, backend) = sql
        .split_once("-- From here on as the backend's role.")
        .expect("the roles change somewhere");
    // `make psql` opens on what the demo's DBA has made.
    let demo = include_str!("../demo/dba.sql").split_inclusive(';');
    let made = demo.filter(|statement| statement.trim().starts_with("INSERT"));
    database.sql(&made.collect::<String>());
    let psql = |role: &str, script| database.cluster().psql(database.name(), role, script);
    psql("postgres", dba);
    let answers = psql(&database.backend_role(), &format!("--{backend}"));
    let answers: Vec<&str> = answers.lines().collect();
    let [link, outcome, redeemed] = answers[..] else {
        panic!("{answers:?}");
    };
    assert!(
        link.starts_with("https://app.example.com/sign-in?token="),
        "{link}"
    );
    assert_eq!(outcome, "ok");
    assert!(
        redeemed.contains(r#""status": "added", "roleIds": ["guest"]"#),
        "{redeemed}"
    );
}

#[test]
fn the_drivers_example_is_the_one_that_is_tested() {
    assert_eq!(readme_block("## From a driver", "rust"), EXAMPLE);
}

#[test]
fn the_drivers_example_runs() {
    let database = Database::new();
    database.organization("acme", &["member"]);
    let backend: &mut Client = &mut database.backend();

    let (email, link) = invite(backend, " Ada@Example.com", "acme").expect("no link");
    assert_eq!(email, "ada@example.com");
    let (_, query) = link.split_once("?token=").expect("no token in the link");
    let (token, email_in_link) = query.split_once("&email=").expect("no address in the link");
    assert_eq!(email_in_link, "ada%40example.com");

    let user_id: String = match redeem(backend, token, &email).expect("no page") {
        Page::Welcome { user_id } => user_id,
        page => panic!("{page:?}"),
    };
    let member = "SELECT user_id::text FROM magic_link.organization_membership_roles";
    assert_eq!(database.value::<String>(member, &[]), user_id);
    assert_eq!(
        redeem(backend, token, &email).expect("no page"),
        Page::AlreadyUsed
    );
    let page = redeem(backend, token, "not an address").expect("no page");
    assert_eq!(page, Page::BrokenLink);

    let (_, link) = invite(backend, "ada@example.com", "acme").expect("no link");
    let (_, query) = link.split_once("?token=").expect("no token in the link");
    let (token, _) = query.split_once("&email=").expect("no address in the link");
    database
        .sql("UPDATE magic_link.one_time_tokens SET revoked_at = now() WHERE consumed_at IS NULL");
    assert_eq!(
        redeem(backend, token, &email).expect("no page"),
        Page::AskForANewLink
    );
}
