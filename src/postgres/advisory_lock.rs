//! Advisory locks that no SQL function can take.

use pgrx::pg_sys;

/// The fourth field of LOCKTAG_ADVISORY, which pg_locks shows as `objsubid`. `pg_advisory_lock` and its
/// like write 1 or 2 there: no role can take, or hold up, a lock of ours by SQL.
const CLASS: u16 = 3;

/// PostgreSQL's USER_LOCKMETHOD, that of advisory locks.
const USER_LOCKMETHOD: u8 = 2;

/// Locks the key in this database until the end of the transaction, and waits for whoever has it.
pub fn lock(key: [u32; 2]) {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: the database of the session.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: key[0],
        locktag_field3: key[1],
        locktag_field4: CLASS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: USER_LOCKMETHOD,
    };
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the tag lives as long as the call.
    unsafe { pg_sys::LockAcquire(&raw const tag, mode, false, false) };
}
