//! PgBouncer in transaction mode, with clients that prepare statements: a call leaves no state in the server connection, and
//! expects none.

use std::collections::{BTreeMap, BTreeSet};

use magic_link_harness::postgres::{Client, SimpleQueryMessage, Statement, Transaction};
use magic_link_harness::{Database, ExpectSqlState, PgBouncer};

const ADA: &str = "ada@example.com";
const EVE: &str = "eve@example.com";
const JOIN_ACME: &str = r#"{"jitOrganizationIds": ["acme"]}"#;

const CLIENTS: usize = 5;
const SERVER_CONNECTIONS: u32 = 2;

/// The calls of a backend, prepared once; each answers one text and the server process that it met.
#[derive(Clone)]
struct Prepared {
    create: Statement,
    check: Statement,
    redeem: Statement,
    try_redeem: Statement,
    decide: Statement,
}

impl Prepared {
    fn new(client: &mut Client) -> Self {
        let mut prepare = |answer: &str, call: &str| {
            let query = format!("SELECT {answer}, pg_backend_pid() FROM magic_link.{call}");
            client.prepare(&query).unwrap()
        };
        Self {
            create: prepare("token", "create_one_time_token($1, 600, $2::text::jsonb)"),
            check: prepare("outcome", "check_one_time_token($1, $2)"),
            redeem: prepare("user_id", "redeem_one_time_token($1, $2)"),
            try_redeem: prepare("outcome", "try_redeem_one_time_token($1, $2)"),
            decide: prepare("decision", "session_switch_decision($1, $2, $3)"),
        }
    }
}

/// A client, and the server processes that it met.
struct Session {
    client: Client,
    prepared: Prepared,
    met: BTreeSet<i32>,
}

impl Session {
    fn new(pooler: &PgBouncer) -> Self {
        let mut client = pooler.backend();
        Self {
            prepared: Prepared::new(&mut client),
            client,
            met: BTreeSet::new(),
        }
    }

    fn text(&mut self, statement: &Statement, parameters: &[&str]) -> String {
        let bound: Vec<_> = parameters.iter().map(|text| text as _).collect();
        let row = self.client.query_one(statement, &bound).unwrap();
        self.met.insert(row.get(1));
        row.get(0)
    }

    /// A token from its creation to the refusal of what comes too late, each call in a transaction of
    /// its own. Answers the id of the user.
    fn one_token(&mut self, email: &str) -> String {
        let calls = self.prepared.clone();
        let token = self.text(&calls.create, &[email, JOIN_ACME]);
        assert_eq!(self.text(&calls.check, &[&token, email]), "ok");
        assert_eq!(self.text(&calls.decide, &[&token, email, EVE]), "ask");
        assert_eq!(
            self.text(&calls.try_redeem, &[&token, EVE]),
            "email_mismatch"
        );
        let user = self.text(&calls.redeem, &[&token, email]);
        let again = self.client.query_one(&calls.redeem, &[&token, &email]);
        again.expect_sqlstate("OT003");
        assert_eq!(
            self.text(&calls.decide, &[&token, email, email]),
            "continue"
        );
        let second = self.text(&calls.create, &[email, "{}"]);
        assert_eq!(self.text(&calls.try_redeem, &[&second, email]), "ok");
        assert_eq!(self.text(&calls.check, &[&second, email]), "token_consumed");
        user
    }
}

/// How many lines about a database the pooler's console shows.
fn shown(pooler: &PgBouncer, db: &Database, what: &str) -> usize {
    let answer = pooler.console().simple_query(&format!("SHOW {what}"));
    let of_database = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get("database") == Some(db.name()),
        _ => false,
    };
    answer
        .unwrap()
        .iter()
        .filter(|line| of_database(line))
        .count()
}

/// The server process behind a transaction, and how often the protocol's redemption is prepared in it.
fn redemptions_prepared(transaction: &mut Transaction) -> (i32, i64) {
    let row = transaction.query_one(
        "SELECT pg_backend_pid(), count(*) FROM pg_prepared_statements
          WHERE NOT from_sql AND starts_with(name, 'PGBOUNCER_')
            AND strpos(statement, $1) > 0",
        &[&"magic_link.redeem_one_time_token"],
    );
    let row = row.unwrap();
    (row.get(0), row.get(1))
}

/// The same of both connections: what one transaction holds, another one does not get.
fn redemptions_prepared_in_both(sessions: &mut [Session]) -> BTreeMap<i32, i64> {
    let [first, second, ..] = sessions else {
        panic!("too few clients");
    };
    let mut first = first.client.transaction().unwrap();
    let mut second = second.client.transaction().unwrap();
    BTreeMap::from([&mut first, &mut second].map(redemptions_prepared))
}

#[test]
fn clients_share_connections_and_prepared_statements() {
    let db = Database::new();
    db.organization("acme", &["member"]);
    let pooler = PgBouncer::start(&db, SERVER_CONNECTIONS);
    let mut sessions: Vec<_> = (0..CLIENTS).map(|_| Session::new(&pooler)).collect();
    let before = redemptions_prepared_in_both(&mut sessions);
    // The second connection was made for the second transaction: no client has prepared anything there.
    let mut counts: Vec<_> = before.values().copied().collect();
    counts.sort();
    assert_eq!(counts, [0, 1]);

    let mut users = BTreeSet::new();
    for _ in 0..3 {
        for (number, session) in sessions.iter_mut().enumerate() {
            users.insert(session.one_token(&format!("{number}@example.com")));
        }
    }
    assert_eq!(users.len(), CLIENTS);
    let members = "magic_link.organization_memberships";
    assert_eq!(db.count(members), CLIENTS as i64);

    for session in &sessions {
        assert!(session.met.iter().eq(before.keys()), "{:?}", session.met);
    }
    assert_eq!(shown(&pooler, &db, "CLIENTS"), CLIENTS);
    assert_eq!(shown(&pooler, &db, "SERVERS"), SERVER_CONNECTIONS as usize);
    let after = redemptions_prepared_in_both(&mut sessions);
    assert!(after.keys().eq(before.keys()));
    // Once for all clients, since they prepared the same statement.
    assert!(after.values().all(|&prepared| prepared == 1), "{after:?}");
}

#[test]
fn transactions_that_are_open_at_once_stay_apart() {
    let db = Database::new();
    let pooler = PgBouncer::start(&db, SERVER_CONNECTIONS);
    let [mut first, mut second] = [(); 2].map(|()| Session::new(&pooler));
    let calls = second.prepared.clone();
    let token = second.text(&calls.create, &[ADA, "{}"]);

    let mut redeeming = first.client.transaction().unwrap();
    redeeming
        .query_one(&first.prepared.redeem, &[&token, &ADA])
        .unwrap();
    assert_eq!(second.text(&calls.check, &[&token, ADA]), "ok");
    redeeming.commit().unwrap();
    assert_eq!(second.text(&calls.check, &[&token, ADA]), "token_consumed");
}

const SET: &str = "SELECT set_config('magic_link.session_email', $1, true), set_config('magic_link.prompt', $2, true)";
const VIEW: &str =
    "SELECT decision, session_email, prompt, pg_backend_pid() FROM magic_link.session_switch";

/// Decision, session account and prompt of the one token there is, and the server process.
type Seen = ([Option<String>; 3], i32);

fn seen(transaction: &mut Transaction, view: &Statement) -> Seen {
    let row = transaction.query_one(view, &[]).unwrap();
    ([0, 1, 2].map(|column| row.get(column)), row.get(3))
}

#[test]
fn the_session_account_ends_with_its_transaction() {
    let db = Database::new();
    let pooler = PgBouncer::start(&db, 1);
    let mut evening = pooler.backend();
    let mut morning = pooler.backend();
    let set = evening.prepare(SET).unwrap();
    let evening_view = evening.prepare(VIEW).unwrap();
    let morning_view = morning.prepare(VIEW).unwrap();
    let create = "SELECT FROM magic_link.create_one_time_token($1)";
    morning.execute(create, &[&ADA]).unwrap();

    let eve = ["switch", EVE, "login"].map(|value| Some(value.to_owned()));
    let nobody = [Some("redeem".to_owned()), None, None];
    for commit in [true, false] {
        let mut transaction = evening.transaction().unwrap();
        transaction.execute(&set, &[&EVE, &"login"]).unwrap();
        let (sees, connection) = seen(&mut transaction, &evening_view);
        assert_eq!(sees, eve);
        if commit {
            transaction.commit().unwrap();
        } else {
            transaction.rollback().unwrap();
        }
        let after = seen(&mut morning.transaction().unwrap(), &morning_view);
        assert_eq!(after, (nobody.clone(), connection));
    }
}
