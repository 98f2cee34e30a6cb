//! A full disk (53100): a call that fails changes nothing, committed work is still there afterwards, and calls succeed again as
//! soon as there is free space.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Mutex;

use magic_link_harness::postgres::{Client, Error};
use magic_link_harness::{
    Calls, Cluster, Database, ExpectSqlState, Issued, SMALL_DISK, Test, can_have_small_disk,
    concurrently, run_tests, wait_until,
};

const DISK_FULL: &str = "53100";
const EVERYWHERE: &str = r#"{"jitOrganizationIds": ["acme", "globex", "initech"]}"#;

const TESTS: &[Test] = &[
    (
        "a_call_that_cannot_extend_a_relation_changes_nothing",
        a_call_that_cannot_extend_a_relation_changes_nothing,
        can_have_small_disk,
    ),
    (
        "what_was_committed_survives_a_full_disk_for_wal",
        what_was_committed_survives_a_full_disk_for_wal,
        can_have_small_disk,
    ),
    (
        "a_full_disk_for_temporary_files_changes_nothing",
        a_full_disk_for_temporary_files_changes_nothing,
        can_have_small_disk,
    ),
];

fn main() {
    run_tests(TESTS);
}

/// A cluster with a tablespace on its small disk.
fn with_small_tablespace() -> Cluster {
    let cluster = Cluster::with_small_disk(24, &[], &[]);
    cluster.run_inside(&format!("mkdir {SMALL_DISK}/space"));
    let mut superuser = cluster.connect("postgres", "postgres");
    superuser
        .batch_execute(&format!(
            "CREATE TABLESPACE small LOCATION '{SMALL_DISK}/space'"
        ))
        .unwrap();
    cluster
}

/// Uses up all free space.
fn fill(cluster: &Cluster) {
    assert!(!cluster.succeeds_inside(&format!("cat /dev/zero >{SMALL_DISK}/filler")));
}

fn free_space(cluster: &Cluster) {
    cluster.run_inside(&format!("rm {SMALL_DISK}/filler"));
}

/// Frees the space of one page.
fn free_one_page(cluster: &Cluster) {
    let filler = format!("{SMALL_DISK}/filler");
    cluster.run_inside(&format!(
        "test -s {filler} && truncate --size=-8192 {filler}"
    ));
}

fn make_organizations(db: &Database) {
    for organization in ["acme", "globex", "initech"] {
        db.organization(organization, &["editor", "member"]);
    }
}

/// Each address becomes a user of its own. The addresses are so long that the rows need many pages.
fn emails(number: usize) -> Vec<String> {
    let filler = "x".repeat(40);
    let email = |n| format!("{filler}{n}@{filler}.{filler}.{filler}.{filler}.example");
    (0..number).map(email).collect()
}

/// Tries until it succeeds, with one free page more each time. A call that fails changes no row. Collects which relations could
/// not be extended.
fn page_by_page<T>(
    db: &Database,
    in_want: &mut BTreeSet<String>,
    mut call: impl FnMut() -> Result<T, Error>,
) -> T {
    let before = db.contents();
    loop {
        let refused = match call() {
            Ok(answer) => return answer,
            Err(error) => Err::<(), _>(error).expect_sqlstate(DISK_FULL),
        };
        assert_eq!(db.contents(), before, "{refused:?}");
        in_want.insert(relation_of(db, refused.message()));
        free_one_page(db.cluster());
    }
}

/// The relation whose file a message names: pg_tblspc/16384/PG_15_…/16385/16390, perhaps of another fork, 16390_fsm.
fn relation_of(db: &Database, message: &str) -> String {
    let path = message.split('"').nth(1).unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let number = file.split(['_', '.']).next().unwrap_or_default();
    let number: u32 = number.parse().unwrap_or_else(|_| panic!("{message}"));
    db.value(
        "SELECT relname::text FROM pg_class WHERE relfilenode = $1",
        &[&number],
    )
}

fn a_call_that_cannot_extend_a_relation_changes_nothing() {
    let cluster = with_small_tablespace();
    let db = Database::of(&cluster);
    make_organizations(&db);
    cluster
        .connect("postgres", "postgres")
        .batch_execute(&format!(
            "ALTER DATABASE {} SET TABLESPACE small",
            db.name()
        ))
        .unwrap();
    let mut backend = db.backend();
    fill(&cluster);
    let emails = emails(60);

    let mut in_want = BTreeSet::new();
    let (single, bulk) = emails.split_at(30);
    let mut issued: Vec<Issued> = single
        .iter()
        .map(|email| page_by_page(&db, &mut in_want, || backend.create(email, EVERYWHERE)))
        .collect();
    let bulk: Vec<_> = bulk.iter().map(String::as_str).collect();
    let before = db.contents();
    backend
        .create_all(&bulk, EVERYWHERE)
        .expect_sqlstate(DISK_FULL);
    assert_eq!(db.contents(), before);
    // A page more would not do: each try fills it with rows that nobody sees, until a VACUUM.
    free_space(&cluster);
    issued.extend(backend.create_all(&bulk, EVERYWHERE).unwrap());
    fill(&cluster);
    let token_relations = ["one_time_tokens", "one_time_tokens_email_expires_at_idx"];
    assert_contains(&in_want, &token_relations);

    in_want.clear();
    for (number, token) in issued.iter().enumerate() {
        page_by_page(&db, &mut in_want, || {
            redeem(&mut backend, token, number % 2 == 0)
        });
    }
    // Before the user, between the user and the memberships, and after them.
    let directory = [
        "users",
        "users_email_key",
        "organization_memberships",
        "organization_memberships_pkey",
        "organization_membership_roles",
        "organization_membership_roles_pkey",
    ];
    assert_contains(&in_want, &directory);
    assert_eq!(redeemed_whole(&db), emails.len() as i64);

    free_space(&cluster);
    assert_goes_on(&db, &mut backend);
}

#[track_caller]
fn assert_contains(in_want: &BTreeSet<String>, relations: &[&str]) {
    for relation in relations {
        assert!(in_want.contains(*relation), "{relation}: {in_want:?}");
    }
}

/// By the one function or by the other.
fn redeem(backend: &mut Client, token: &Issued, quietly: bool) -> Result<(), Error> {
    if !quietly {
        return backend.redeem(&token.token, &token.email).map(drop);
    }
    let (outcome, _) = backend.try_redeem_in(None, &token.token, &token.email)?;
    assert_eq!(outcome, "ok");
    Ok(())
}

/// How many tokens were redeemed; each has its user, with all memberships and roles, and there are no others.
#[track_caller]
fn redeemed_whole(db: &Database) -> i64 {
    let redeemed = db.count("magic_link.one_time_tokens WHERE consumed_at IS NOT NULL");
    let users = db.count(
        "magic_link.one_time_tokens AS t JOIN magic_link.users AS u ON u.email = t.email WHERE t.consumed_at IS NOT NULL",
    );
    assert_eq!(users, redeemed);
    for (table, each) in [
        ("users", 1),
        ("organization_memberships", 3),
        ("organization_membership_roles", 6),
    ] {
        assert_eq!(
            db.count(&format!("magic_link.{table}")),
            each * redeemed,
            "{table}"
        );
    }
    redeemed
}

#[track_caller]
fn assert_goes_on(db: &Database, backend: &mut Client) {
    let before = redeemed_whole(db);
    let token = backend.create("late@example.com", EVERYWHERE).unwrap();
    backend.redeem(&token.token, &token.email).unwrap();
    backend
        .redeem(&token.token, &token.email)
        .expect_sqlstate("OT003");
    assert_eq!(redeemed_whole(db), before + 1);
}

/// A server that cannot write its log panics, by design: what it has acknowledged is in the part of the log that it has.
fn what_was_committed_survives_a_full_disk_for_wal() {
    let wal = format!("--waldir={SMALL_DISK}/wal");
    let settings = [
        ("min_wal_size", "2MB"),
        ("max_wal_size", "2MB"),
        // Nothing is given up at a checkpoint, to be written over.
        ("wal_keep_size", "1GB"),
        // So that it is clear when it is down. By default it starts again, and again.
        ("restart_after_crash", "off"),
    ];
    let cluster = Cluster::with_small_disk(64, &[&wal, "--wal-segsize=1"], &settings);
    let db = Database::of(&cluster);
    make_organizations(&db);
    let mut clients: Vec<_> = (0..4).map(|n| (n, db.backend())).collect();
    let issued = clients[0].1.create_all(
        &emails(100).iter().map(String::as_str).collect::<Vec<_>>(),
        EVERYWHERE,
    );
    let waiting = Mutex::new(issued.unwrap());
    // A new file of the log, all of which is still to be written: so there is something to acknowledge.
    db.sql("SELECT pg_switch_wal()");
    db.sql("CHECKPOINT");
    fill(&cluster);

    let acknowledged = concurrently(clients, |(n, mut client)| {
        let mut acknowledged = Acknowledged::default();
        let Err(error) = work(&mut client, n, &waiting, &mut acknowledged);
        assert_lost(&client, &error);
        acknowledged
    });
    wait_until("the server is down", || {
        !cluster.succeeds_inside(&format!("pg_ctl status --pgdata={}", data(&cluster)))
    });
    let log = cluster.log();
    assert!(
        log.contains("PANIC") && log.contains("No space left on device"),
        "{log}"
    );
    cluster.run_inside("mv log log.before");

    free_space(&cluster);
    cluster.start_again();

    let mut backend = db.backend();
    redeemed_whole(&db);
    let (redeemed, created): (Vec<_>, Vec<_>) = acknowledged.into_iter().unzip();
    for token in redeemed.concat() {
        backend
            .redeem(&token.token, &token.email)
            .expect_sqlstate("OT003");
    }
    let created = created.concat();
    assert!(!created.is_empty());
    for token in created {
        backend.redeem(&token.token, &token.email).unwrap();
    }
    // Their turn never came.
    for token in waiting.into_inner().unwrap() {
        backend.redeem(&token.token, &token.email).unwrap();
    }
    assert_goes_on(&db, &mut backend);
}

/// What was redeemed, and what was issued besides.
type Acknowledged = (Vec<Issued>, Vec<Issued>);

/// Redeems one of those that wait and issues another, until that fails.
fn work(
    client: &mut Client,
    n: usize,
    waiting: &Mutex<Vec<Issued>>,
    (redeemed, created): &mut Acknowledged,
) -> Result<Infallible, Error> {
    for number in 0.. {
        let next = waiting.lock().unwrap().pop();
        if let Some(token) = next {
            redeem(client, &token, number % 2 == 0)?;
            redeemed.push(token);
        }
        created.push(client.create(&format!("{n}.{number}@example.com"), EVERYWHERE)?);
    }
    unreachable!("no end of numbers");
}

fn data(cluster: &Cluster) -> String {
    cluster.file("data").display().to_string()
}

/// Nobody is refused: the server ends, by this connection or by another (57P02), and perhaps before it can say so.
fn assert_lost(client: &Client, error: &Error) {
    let told = error.as_db_error();
    let ended = told.is_some_and(|e| e.severity() == "PANIC" || e.code().code() == "57P02");
    assert!(ended || client.is_closed(), "{error:?}");
}

fn a_full_disk_for_temporary_files_changes_nothing() {
    let cluster = with_small_tablespace();
    let db = Database::of(&cluster);
    db.sql(&format!(
        "ALTER DATABASE {name} SET temp_tablespaces = 'small'; ALTER DATABASE {name} SET work_mem = '64kB'",
        name = db.name()
    ));
    make_organizations(&db);
    fill(&cluster);
    let sort = "SELECT n FROM generate_series(1, 100000) AS n ORDER BY n DESC";
    db.superuser()
        .batch_execute(sort)
        .expect_sqlstate(DISK_FULL);

    let mut backend = db.backend();
    let emails = emails(1000);
    let emails: Vec<_> = emails.iter().map(String::as_str).collect();
    let issued = backend.create_all(&emails, EVERYWHERE).unwrap();
    for token in &issued[..10] {
        backend.redeem(&token.token, &token.email).unwrap();
    }
    assert_eq!(redeemed_whole(&db), 10);
    let mut admin = db.admin();
    assert_eq!(admin.revoke_all(&issued[10].email, None).unwrap(), 1);
    db.sql("UPDATE magic_link.one_time_tokens SET created_at = created_at - interval '1 year', expires_at = expires_at - interval '1 year'");
    admin.purge("30 days", 100).unwrap();
}
