//! Polling for an event. Nothing here sleeps for a time that is hoped to be long enough: a test looks for its event
//! again and again, and fails when the event does not come within a minute.

use std::thread;
use std::time::{Duration, Instant};

/// A machine under load is slow. What takes longer than this hangs.
const TIMEOUT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `has_happened` answers true. `event` is for the message of a timeout.
#[track_caller]
pub fn wait_until(event: &str, has_happened: impl FnMut() -> bool) {
    poll(event, has_happened, TIMEOUT, INTERVAL);
}

/// Waits for what a scheduler starts at the next full minute. It polls less often, so that other tests are not slowed down.
#[track_caller]
pub fn wait_until_next_minute(event: &str, has_happened: impl FnMut() -> bool) {
    let minute = Duration::from_secs(60);
    poll(event, has_happened, minute + TIMEOUT, INTERVAL * 20);
}

#[track_caller]
fn poll(
    event: &str,
    mut has_happened: impl FnMut() -> bool,
    timeout: Duration,
    interval: Duration,
) {
    let end = Instant::now() + timeout;
    while !has_happened() {
        assert!(Instant::now() < end, "timed out waiting until {event}");
        thread::sleep(interval);
    }
}
