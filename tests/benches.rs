//! The benchmark, in small: its contestants do the same, and what it measures it can measure. No test
//! depends on a figure.

use std::collections::BTreeMap;
use std::fs;

use magic_link_benches::contestants::{Call, Contestant};
use magic_link_benches::report::{table, write};
use magic_link_benches::server::{self, Stopped};
use magic_link_benches::throughput::{self, Length};
use magic_link_benches::wire::Session;
use magic_link_benches::workload::{Case, Workload, cases};
use magic_link_harness::{Cluster, Database};

const CASES: usize = 5;

fn calls(contestant: Contestant, workload: Workload, cases: &[Case]) -> Option<Vec<Call>> {
    cases
        .iter()
        .map(|case| contestant.call(workload, case))
        .collect()
}

/// What is left of these cases, by address, since ids are drawn: status, life, and memberships with roles.
fn traces(database: &Database, cases: &[Case]) -> BTreeMap<String, Vec<String>> {
    let mut client = database.superuser();
    let trace = "
        SELECT ARRAY(SELECT concat_ws(' ', t.expires_at - t.created_at, t.consumed_by = u.id::text)
                       FROM magic_link.one_time_tokens AS t
                      WHERE t.email = $1 AND t.created_at > now() - interval '1 hour' ORDER BY 1)
            || ARRAY(SELECT concat_ws(' ', m.organization_id, r.organization_role_id)
                       FROM magic_link.organization_memberships AS m
                       LEFT JOIN magic_link.organization_membership_roles AS r USING (organization_id, user_id)
                      WHERE m.user_id = u.id ORDER BY 1)
          FROM (SELECT) AS one LEFT JOIN magic_link.users AS u ON u.email = $1";
    cases
        .iter()
        .map(|case| {
            let row = client.query_one(trace, &[&case.email]).unwrap();
            (case.email.clone(), row.get(0))
        })
        .collect()
}

/// Each contestant in a database of its own, which the others' are copies of.
#[test]
fn all_contestants_leave_the_same_rows() {
    let cluster = server::start(&[]);
    let first = server::database(&cluster);
    for workload in [
        Workload::Create,
        Workload::Redeem(1),
        Workload::Redeem(10),
        Workload::SignIn,
    ] {
        let cases = cases(&mut first.superuser(), workload, CASES, 0);
        let mut left = Contestant::ALL.map(|contestant| {
            let copy = Database::bare(&cluster, &format!("TEMPLATE {}", first.name()));
            let before = traces(&copy, &cases);
            let mut session = Session::new(copy.superuser(), contestant);
            for call in calls(contestant, workload, &cases).unwrap() {
                session.call(&call);
            }
            let after = traces(&copy, &cases);
            assert_ne!(
                before,
                after,
                "{} did nothing to {}",
                contestant.name(),
                workload.name()
            );
            (contestant.name(), after)
        });
        let (_, ours) = std::mem::take(&mut left[0]);
        for (name, theirs) in &left[1..] {
            assert_eq!(&ours, theirs, "{name}, {}", workload.name());
        }
    }
}

#[test]
fn what_only_asks_changes_nothing() {
    let cluster = server::start(&[]);
    let database = server::database(&cluster);
    for workload in [Workload::Refused, Workload::Check, Workload::SessionSwitch] {
        let cases = cases(&mut database.superuser(), workload, CASES, 0);
        let before = database.contents();
        for contestant in Contestant::ALL {
            let mut session = Session::new(database.superuser(), contestant);
            let calls = calls(contestant, workload, &cases);
            assert_eq!(calls.is_none(), contestant == Contestant::Baseline);
            calls.iter().flatten().for_each(|call| session.call(call));
        }
        assert!(before == database.contents(), "{}", workload.name());
    }
}

/// Without callgrind, which counts here what it counts anywhere.
#[test]
fn a_single_user_server_takes_what_every_contestant_sends() {
    let cluster = server::start(&[]);
    let database = server::database(&cluster);
    let workloads = Workload::ALL.map(|workload| {
        let first = workload.name().len() * CASES;
        (
            workload,
            cases(&mut database.superuser(), workload, CASES, first),
        )
    });
    let stopped = Stopped::new(&cluster, &database);
    for contestant in Contestant::ALL {
        for (workload, cases) in &workloads {
            if let Some(calls) = calls(contestant, *workload, cases) {
                stopped.run("", contestant, &calls, true);
            }
        }
    }
    stopped.start_again();
}

#[test]
fn a_comparison_becomes_a_table_and_a_plot() {
    let part = throughput::measure(Length {
        rounds: 1,
        calls: 32,
    });
    assert!(
        part.rows
            .iter()
            .all(|row| row.value.is_finite() && row.value > 0.0)
    );
    let parts = [part];
    assert_eq!(table(&parts).lines().count(), parts[0].rows.len() + 1);

    let cluster = Cluster::shared();
    let folder = cluster.file("results").to_string_lossy().into_owned();
    fs::create_dir(&folder).unwrap();
    write(&folder, &parts, "PostgreSQL").unwrap();
    let page = fs::read_to_string(format!("{folder}/results.md")).unwrap();
    assert!(parts[0].rows.iter().all(|row| page.contains(&row.figure)));
    let plot = fs::read_to_string(format!("{folder}/throughput.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n"));
}
