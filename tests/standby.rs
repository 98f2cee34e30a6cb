//! A hot standby: functions that only read answer as on the primary, and functions that write raise 25006
//! before any other error.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use magic_link_harness::postgres::{Client, Error, Row};
use magic_link_harness::{Calls, Cluster, Database, ExpectSqlState, Issued};
use uuid::Uuid;

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";

static PRIMARY: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(&[]).until_exit());
static STANDBY: LazyLock<Cluster> = LazyLock::new(|| PRIMARY.standby().until_exit());

/// Who calls a function: the backend's role, one that went through `grant_admin`, or a superuser.
#[derive(Clone, Copy)]
enum Caller {
    Backend,
    Admin,
    Superuser,
}
use Caller::{Admin, Backend, Superuser};

/// What writes, and who calls it: `p` is what somebody presents, with `p.token`, `p.email` and `p.id`.
const WRITERS: &[(Caller, &str)] = &[
    (Backend, "create_one_time_token(p.email)"),
    (Backend, "create_one_time_tokens(ARRAY[p.email])"),
    (Backend, "redeem_one_time_token(p.token, p.email)"),
    (Backend, "try_redeem_one_time_token(p.token, p.email)"),
    (Admin, "revoke_one_time_token(p.id)"),
    (Admin, "revoke_one_time_tokens(p.email, NULL)"),
    (Admin, "delete_one_time_token(p.id)"),
    (Admin, "purge_one_time_tokens('0 days')"),
    (Superuser, "grant_backend('pg_monitor')"),
    (Superuser, "revoke_backend('pg_monitor')"),
    (Superuser, "grant_admin('pg_monitor')"),
    (Superuser, "revoke_admin('pg_monitor')"),
    (
        Superuser,
        "change_privileges('pg_monitor', 'admin', 'GRANT %s TO %s')",
    ),
];

const READERS: &[&str] = &["check_one_time_token", "session_switch_decision"];

fn name(call: &str) -> &str {
    call.split_once('(').expect("no call").0
}

fn present(client: &mut Client, call: &str, presented: &Presented) -> Result<Vec<Row>, Error> {
    client.query(
        &format!(
            "SELECT called.*
               FROM (SELECT $1::text AS token, $2::text AS email, $3::uuid AS id) AS p,
                    magic_link.{call} AS called"
        ),
        &[
            &presented.issued.token,
            &presented.email,
            &presented.issued.id,
        ],
    )
}

/// A token and the address beside it, as they come with a link, and what is to be said of them.
struct Presented {
    issued: Issued,
    email: &'static str,
    outcome: &'static str,
}

impl Presented {
    fn new(issued: &Issued, email: &'static str, outcome: &'static str) -> Self {
        Self {
            issued: issued.clone(),
            email,
            outcome,
        }
    }
}

/// A link of every kind, made on the primary; the first one can be redeemed.
fn every_kind(db: &Database) -> Vec<Presented> {
    let mut backend = db.backend();
    let mut create = |context: &str| backend.create(ADA, context).unwrap();
    let [active, consumed, revoked, expired] = [(); 4].map(|()| create("{}"));
    let registration = create(r#"{"interactionEvent": "Register"}"#);
    let other = |token: String| Issued {
        token,
        id: Uuid::nil(),
        ..active.clone()
    };
    let unknown = other("0".repeat(active.token.len()));
    let malformed = other("no token".to_owned());
    backend.redeem(&consumed.token, ADA).unwrap();
    let update = "UPDATE magic_link.one_time_tokens SET";
    db.sql(&format!(
        "{update} revoked_at = clock_timestamp() WHERE id = '{}';
         {update} created_at = created_at - interval '1 day', expires_at = created_at WHERE id = '{}'",
        revoked.id, expired.id
    ));
    vec![
        Presented::new(&active, ADA, "ok"),
        Presented::new(&active, EVE, "email_mismatch"),
        Presented::new(&consumed, ADA, "token_consumed"),
        Presented::new(&revoked, ADA, "token_revoked"),
        Presented::new(&expired, ADA, "token_expired"),
        Presented::new(&registration, ADA, "interaction_event_mismatch"),
        Presented::new(&unknown, ADA, "token_not_found"),
        Presented::new(&malformed, ADA, "token_not_found"),
    ]
}

#[test]
fn every_function_that_could_write_is_a_writer_or_a_reader() {
    let db = Database::of(&PRIMARY);
    let rows = db.superuser().query(
        "SELECT proname::text FROM pg_proc
          WHERE pronamespace = 'magic_link'::regnamespace AND provolatile <> 'i'",
        &[],
    );
    let installed: BTreeSet<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    let writers = WRITERS.iter().map(|(_, call)| name(call));
    let decided: BTreeSet<String> = writers
        .chain(READERS.iter().copied())
        .map(str::to_owned)
        .collect();
    assert_eq!(installed, decided);
}

#[test]
fn what_writes_says_that_it_cannot_and_nothing_else() {
    let db = Database::of(&PRIMARY);
    db.organization("acme", &["member"]);
    let links = every_kind(&db);
    let admin = db.admin_role();
    let before = db.contents();
    let standby = db.on(&STANDBY);
    for (caller, call) in WRITERS {
        let mut client = match caller {
            Backend => standby.backend(),
            Admin => standby.connect_as(&admin),
            Superuser => standby.superuser(),
        };
        for presented in &links {
            println!("{call}: {}", presented.outcome);
            let error = present(&mut client, call, presented).expect_sqlstate("25006");
            let read_only = "in a read-only transaction";
            assert!(error.message().contains(read_only), "{error:?}");
            assert!(!error.message().contains(&presented.issued.token));
            assert_eq!((error.detail(), error.hint()), (None, None));
        }
    }
    assert_eq!(db.contents(), before);
    assert_eq!(standby.contents(), before);
    let active = &links[0];
    db.backend().redeem(&active.issued.token, ADA).unwrap();
}

#[test]
fn checking_answers_as_on_the_primary() {
    let db = Database::of(&PRIMARY);
    let links = every_kind(&db);
    let standby = db.on(&STANDBY);
    let (mut there, mut here) = (standby.backend(), db.backend());
    for presented in &links {
        let Presented { issued, email, .. } = presented;
        for backend in [&mut there, &mut here] {
            let outcome = backend.check_in(None, &issued.token, email).unwrap();
            assert_eq!(outcome, presented.outcome);
        }
    }
    let registration = &links[5].issued.token;
    let outcome = there.check_in(Some("Register"), registration, ADA);
    assert_eq!(outcome.unwrap(), "ok");
}

/// What is redeemed on the primary is seen to be consumed as soon as the standby has replayed it.
#[test]
fn checking_follows_the_primary() {
    let db = Database::of(&PRIMARY);
    let token = db.backend().create(ADA, "{}").unwrap().token;
    let mut backend = db.on(&STANDBY).backend();
    assert_eq!(backend.check_in(None, &token, ADA).unwrap(), "ok");
    db.backend().redeem(&token, ADA).unwrap();
    let _replayed = db.on(&STANDBY);
    let outcome = backend.check_in(None, &token, ADA).unwrap();
    assert_eq!(outcome, "token_consumed");
}

/// Decision and reason of the function, and of the view with the settings of one transaction.
fn decisions(
    client: &mut Client,
    presented: &Presented,
    session_email: &str,
    prompt: &str,
) -> [(String, Option<String>); 2] {
    let Presented { issued, email, .. } = presented;
    [
        client
            .decide(&issued.token, email, Some(session_email), Some(prompt))
            .unwrap(),
        client
            .decide_by_view(issued.id, session_email, prompt)
            .unwrap(),
    ]
}

#[test]
fn session_switch_decides_by_function_and_by_view() {
    let db = Database::of(&PRIMARY);
    let links = every_kind(&db);
    let mut backend = db.on(&STANDBY).backend();
    let [active, consumed, expired] = [&links[0], &links[2], &links[4]];
    #[rustfmt::skip]
    let rows = [
        (active, "", "", "redeem", None),
        (active, ADA, "", "redeem", None),
        (active, EVE, "", "ask", None),
        (active, EVE, "login", "switch", None),
        (consumed, ADA, "", "continue", None),
        (consumed, EVE, "login", "refuse", Some("token_consumed")),
        (expired, ADA, "", "refuse", Some("token_expired")),
    ];
    for (presented, session_email, prompt, decision, reason) in rows {
        let expected = (decision.to_owned(), reason.map(str::to_owned));
        let answers = decisions(&mut backend, presented, session_email, prompt);
        assert_eq!(answers, [expected.clone(), expected], "{session_email}");
    }
    let of_another_address = &links[1].issued.token;
    let answer = backend.decide(of_another_address, EVE, None, None).unwrap();
    let refused = ("refuse".to_owned(), Some("email_mismatch".to_owned()));
    assert_eq!(answer, refused);
}

/// The views, from the catalogue: none is forgotten when one is added.
fn views(db: &Database) -> Vec<String> {
    let rows = db.superuser().query(
        "SELECT oid::regclass::text FROM pg_class
          WHERE relnamespace = 'magic_link'::regnamespace AND relkind = 'v' ORDER BY 1",
        &[],
    );
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

#[test]
fn every_view_has_the_rows_of_the_primary() {
    let db = Database::of(&PRIMARY);
    every_kind(&db);
    let standby = db.on(&STANDBY);
    let views = views(&db);
    assert!(views.contains(&"magic_link.one_time_token_status".to_owned()));
    for view in views {
        let rows = format!("SELECT array_agg(v::text ORDER BY v::text) FROM {view} AS v");
        let read = |db: &Database| db.value::<Vec<String>>(&rows, &[]);
        // One of them goes by the clock.
        let (before, there, after) = (read(&db), read(&standby), read(&db));
        assert!(there == before || there == after, "{view}: {there:?}");
    }
    let status = "SELECT array_agg(status ORDER BY status) FROM magic_link.one_time_token_status";
    assert_eq!(
        standby.value::<Vec<String>>(status, &[]),
        ["active", "active", "consumed", "expired", "revoked"]
    );
}
