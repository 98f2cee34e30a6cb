//! What PostgreSQL says of changed relations and schemas, so that what was looked up can be kept
//! between calls.
//!
//! A message is taken in where a lock is acquired. So the order is always: look up, [`watch`] what was
//! found, lock it, and ask whether the [`generation`] is still the one from before the look.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pgrx::pg_sys;

static GENERATION: AtomicU64 = AtomicU64::new(1);
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// A bit for each relation that is watched, by its oid modulo their number. Two relations may share
/// one: then something is looked up once more than needed. Without it each temporary table of the
/// application would have all our lookups done again.
static WATCHED: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// What was found under one generation is to be looked up again under another.
pub fn generation() -> u64 {
    if !REGISTERED.load(Relaxed) {
        // SAFETY: functions that stay as long as the library, which is never unloaded; registered once.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(on_relation_change), pg_sys::Datum::null());
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int,
                Some(on_schema_change),
                pg_sys::Datum::null(),
            );
        }
        REGISTERED.store(true, Relaxed);
    }
    GENERATION.load(Relaxed)
}

/// Has a change of this relation end the generation. A change of a table's indexes is one of the table.
pub fn watch(relation: pg_sys::Oid) {
    let (word, bit) = place_of(relation);
    WATCHED[word].fetch_or(bit, Relaxed);
}

fn place_of(relation: pg_sys::Oid) -> (usize, u64) {
    let place = relation.to_u32() as usize % (WATCHED.len() * 64);
    (place / 64, 1 << (place % 64))
}

/// # Safety
/// To be called by PostgreSQL, whatever it is doing: it touches nothing of PostgreSQL's.
unsafe extern "C-unwind" fn on_relation_change(_: pg_sys::Datum, relation: pg_sys::Oid) {
    let (word, bit) = place_of(relation);
    // Oid 0 stands for all relations, when there were too many messages to keep.
    if relation == pg_sys::InvalidOid || WATCHED[word].load(Relaxed) & bit != 0 {
        GENERATION.fetch_add(1, Relaxed);
    }
}

/// A renamed schema sends no message for the relations in it.
///
/// # Safety
/// As above.
unsafe extern "C-unwind" fn on_schema_change(_: pg_sys::Datum, _: c_int, _: u32) {
    GENERATION.fetch_add(1, Relaxed);
}
