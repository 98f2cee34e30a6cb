//! The lock of an address: whoever counts, or revokes, its tokens under a limit holds it until the end of
//! the transaction, so that what was counted is true.

use pgrx::pg_sys;
use sha2::{Digest, Sha256};

/// The fourth field of LOCKTAG_ADVISORY, which pg_locks shows as `objsubid`. `pg_advisory_lock` and its
/// like write 1 or 2 there: no role can take, or hold up, a lock of ours by SQL.
const CLASS: u16 = 3;

/// PostgreSQL's USER_LOCKMETHOD, that of advisory locks.
const USER_LOCKMETHOD: u8 = 2;

/// Locks these addresses in their own order, so that two calls cannot meet crosswise. Each takes a place
/// in PostgreSQL's lock table (`max_locks_per_transaction`).
pub fn lock_addresses<'e>(emails: impl IntoIterator<Item = &'e str>) {
    let mut emails: Vec<&str> = emails.into_iter().collect();
    emails.sort_unstable();
    for email in emails {
        let tag = tag_of(email);
        let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: the tag lives as long as the call.
        unsafe { pg_sys::LockAcquire(&raw const tag, mode, false, false) };
    }
}

/// 64 bits of the address's SHA-256, in this database.
fn tag_of(email: &str) -> pg_sys::LOCKTAG {
    let hash = Sha256::digest(email);
    let word = |place: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&hash[place..place + 4]);
        u32::from_be_bytes(bytes)
    };
    pg_sys::LOCKTAG {
        // SAFETY: the database of the session; a backend has one thread.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: word(0),
        locktag_field3: word(4),
        locktag_field4: CLASS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: USER_LOCKMETHOD,
    }
}
