//! Several connections at once.

use std::sync::Barrier;
use std::thread;

use postgres::Client;

use crate::database::Database;

/// Calls `run` for each item in a thread of its own. All threads start at the same moment.
pub fn concurrently<I: Send, T: Send>(items: Vec<I>, run: impl Fn(I) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(items.len());
    let (start, run) = (&start, &run);
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| {
                scope.spawn(move || {
                    start.wait();
                    run(item)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Starts `call` on a connection, runs `then` while `call` is blocked by a lock, and returns what `call` returned.
pub fn while_blocked<T: Send>(
    database: &Database,
    mut waiting: Client,
    call: impl FnOnce(&mut Client) -> T + Send,
    then: impl FnOnce(),
) -> T {
    let waiter = process_id(&mut waiting);
    thread::scope(|scope| {
        let answer = scope.spawn(move || call(&mut waiting));
        database.wait_until_blocked(waiter);
        then();
        answer.join().unwrap()
    })
}

/// The process id of the connection's backend (`pg_backend_pid`).
pub fn process_id(client: &mut Client) -> i32 {
    client
        .query_one("SELECT pg_catalog.pg_backend_pid()", &[])
        .unwrap()
        .get(0)
}
