//! Events that tests wait for. Nothing here sleeps for a time that is hoped to be long enough: each
//! looks for its event until it is there, and gives up only when it is sure not to come.

use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::cluster::Cluster;
use crate::database::Database;

/// A machine under load is slow; what takes longer than this is stuck.
const GIVE_UP: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Waits until the event is there.
#[track_caller]
pub fn until(event: &str, is_there: impl FnMut() -> bool) {
    look_for(event, is_there, GIVE_UP, BETWEEN_LOOKS);
}

/// Waits for what a scheduler begins at the next full minute, without disturbing who works meanwhile.
#[track_caller]
pub fn until_next_minute(event: &str, is_there: impl FnMut() -> bool) {
    let minute = Duration::from_secs(60);
    look_for(event, is_there, minute + GIVE_UP, BETWEEN_LOOKS * 20);
}

#[track_caller]
fn look_for(event: &str, mut is_there: impl FnMut() -> bool, limit: Duration, pause: Duration) {
    let end = Instant::now() + limit;
    while !is_there() {
        assert!(Instant::now() < end, "waited in vain until {event}");
        thread::sleep(pause);
    }
}

/// Waits until the server process is held up by a lock that another one holds.
#[track_caller]
pub fn until_waiting_for_lock(database: &Database, process_id: i32) {
    let mut observer = database.superuser();
    until("a process waits for a lock", || {
        observer
            .query_one(
                "SELECT cardinality(pg_catalog.pg_blocking_pids($1)) > 0",
                &[&process_id],
            )
            .expect("no observer")
            .get(0)
    });
}

/// Waits until a token is past its time by the server's own clock.
#[track_caller]
pub fn until_expired(database: &Database, id: Uuid) {
    let mut observer = database.superuser();
    until("a token expires", || {
        observer
            .query_one(
                "SELECT clock_timestamp() >= expires_at FROM magic_link.one_time_tokens WHERE id = $1",
                &[&id],
            )
            .expect("no observer")
            .get(0)
    });
}

/// Waits until a standby has replayed what its primary has written by now.
#[track_caller]
pub fn until_replayed(primary: &Cluster, standby: &Cluster) {
    let written: String = primary
        .connect("postgres", "postgres")
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .expect("no primary")
        .get(0);
    let mut observer = standby.connect("postgres", "postgres");
    until(
        "the standby has replayed what the primary has written",
        || {
            observer
                .query_one(
                    "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn",
                    &[&written],
                )
                .expect("no observer")
                .get(0)
        },
    );
}
