//! A fixed part of what `make torture PARTS=ddl` goes through: calls of every function meet a change of a table, and each ends
//! with what is true of the tables that are there then, or says why not.

use std::sync::LazyLock;

use magic_link_harness::Cluster;
use magic_link_torture::ddl::{Case, Setting, Tally, changes, run_case};
use magic_link_torture::ddl_calls::{Caller, Fixture, Session};
use magic_link_torture::ddl_changes::Kind::{self, *};
use magic_link_torture::ddl_changes::{Change, ONE_TIME_TOKENS};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(&[]).until_exit());
static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| Fixture::make(&CLUSTER));

/// A kind, a table, and an index or a constraint of it.
type Row = (Kind, &'static str, &'static str);

/// Every call in a warm session; in cold ones, and with an older snapshot, in turn from change to change.
fn callers(number: usize) -> Vec<Caller> {
    let sits = |place: usize, caller: &Caller| match caller.session {
        Session::Warm => true,
        Session::Cold => (place / 4 + number).is_multiple_of(3),
        Session::Snapshot { .. } => (place + number).is_multiple_of(8),
    };
    let callers = Caller::all().enumerate();
    callers
        .filter(|(place, caller)| sits(*place, caller))
        .map(|(_, caller)| caller)
        .collect()
}

fn hold(commits: bool, rows: &[Row]) -> Tally {
    let mut tally = Tally::default();
    for (number, (kind, table, name)) in rows.iter().enumerate() {
        let case = Case {
            change: Change::new(*kind, table, name),
            commits,
            setting: Setting::ALL[number % Setting::ALL.len()],
            callers: callers(number),
        };
        if let Err(wrong) = run_case(&CLUSTER, &FIXTURE, &case, &mut tally) {
            panic!("{wrong}");
        }
    }
    println!("{}", tally.line());
    assert!(tally.waited * 4 > tally.calls, "{}", tally.line());
    tally
}

/// What is new in the catalogue, and has no line in ddl_changes.rs or ddl_calls.rs, fails there.
#[test]
fn every_table_index_and_function_takes_part() {
    let changes = changes(&CLUSTER, &FIXTURE);
    let kinds = |kind| changes.iter().filter(|change| change.kind == kind).count();
    assert_eq!(
        [Swap, IndexReplace, ConstraintDrop].map(kinds),
        [8, 15, 21],
        "{changes:?}"
    );
}

/// Rows of the old table are dead where the new one's indexes point: to read it by them would mark their entries dead.
#[test]
fn a_swapped_table_gives_nobody_anothers_row_and_keeps_its_indexes_whole() {
    hold(
        true,
        &[
            (SwapWithNames, "users", ""),
            (SwapWithNames, ONE_TIME_TOKENS, ""),
            (SwapWithNamesAndKeys, "users", ""),
            (SchemaReplace, "users", ""),
        ],
    );
}

#[test]
fn an_index_that_was_replaced_is_not_asked() {
    hold(
        true,
        &[
            (IndexReplace, "users", "users_email_key"),
            (IndexReplace, ONE_TIME_TOKENS, "one_time_tokens_pkey"),
            (IndexExchange, "users", "users_email_key"),
            (ConstraintDrop, "users", "users_email_key"),
        ],
    );
}

#[test]
fn a_table_that_is_gone_or_written_anew_is_noticed() {
    let tally = hold(
        true,
        &[
            (Rename, "users", ""),
            (Rewrite, "users", ""),
            (Truncate, ONE_TIME_TOKENS, ""),
            (ViewInPlace, "users", ""),
            (ExtensionDropAndCreate, "", ""),
        ],
    );
    for code in ["42P01", "42809", "OT001"] {
        assert!(tally.errors.contains_key(code), "{}", tally.line());
    }
}

#[test]
fn what_is_rolled_back_changes_no_answer() {
    hold(
        false,
        &[
            (SwapWithNames, "users", ""),
            (Truncate, ONE_TIME_TOKENS, ""),
            (IndexReplace, "users", "users_email_key"),
        ],
    );
}
