//! Several connections at once.

use std::sync::Barrier;
use std::thread;

use postgres::Client;

use crate::database::Database;
use crate::polling::until_waiting_for_lock;

/// Runs one closure for each item in a thread of its own, all from the same moment on.
pub fn at_once<I: Send, T: Send>(items: Vec<I>, run: impl Fn(I) -> T + Sync) -> Vec<T> {
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

/// Starts `call` on a connection, does `then` once it is held up by a lock, and answers how it went.
pub fn behind<T: Send>(
    database: &Database,
    mut waiting: Client,
    call: impl FnOnce(&mut Client) -> T + Send,
    then: impl FnOnce(),
) -> T {
    let waiter = process_id(&mut waiting);
    thread::scope(|scope| {
        let answer = scope.spawn(move || call(&mut waiting));
        until_waiting_for_lock(database, waiter);
        then();
        answer.join().unwrap()
    })
}

/// Which server process a connection talks to.
pub fn process_id(client: &mut Client) -> i32 {
    client
        .query_one("SELECT pg_catalog.pg_backend_pid()", &[])
        .unwrap()
        .get(0)
}
