//! A scan of one table for rows with a key, and the lock on the row that it is at.

use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// How many columns the longest key has.
pub const MAX_KEYS: usize = 3;

/// What a column is compared with.
#[derive(Clone, Copy)]
pub struct Argument {
    pub column: pg_sys::AttrNumber,
    pub equality: u32,
    pub value: pg_sys::Datum,
}

impl Default for Argument {
    fn default() -> Self {
        Self {
            column: 0,
            equality: 0,
            value: pg_sys::Datum::null(),
        }
    }
}

/// What a look sees, beside what its transaction did.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SnapshotMode {
    /// All that is committed; from REPEATABLE READ on, all that was at the transaction's start.
    Transaction,
    /// All that is committed, whatever the isolation level.
    Latest,
}

/// Whether the transaction sees all as it was at its start (PostgreSQL's IsolationUsesXactSnapshot).
pub fn uses_transaction_snapshot() -> bool {
    // SAFETY: the isolation level of the transaction that we are in; a backend has one thread.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The strengths of row locks that we take, by PostgreSQL's names.
#[derive(Clone, Copy)]
pub enum RowLock {
    /// As a foreign key does that points to the row: it is neither deleted nor given another key.
    KeyShare,
    /// As an UPDATE does that leaves the keys alone.
    NoKeyUpdate,
}

/// How an attempt at a row lock ended.
#[derive(Clone, Copy)]
pub enum LockOutcome {
    /// The scan is at the version that is locked. `moved`: it is a later one than was found.
    Locked { moved: bool },
    /// Deleted by ourselves, in a trigger.
    NotFound,
    /// There is another version now, or none: look again.
    ConcurrentlyUpdated,
    /// The same, where the transaction may not look again.
    SerializationFailure,
    /// For no reason that there is.
    Unexpected,
}

/// The values of a row's columns, in memory of the current context.
#[derive(Clone, Copy)]
pub struct Values {
    pub values: *const pg_sys::Datum,
    pub nulls: *const bool,
}

/// An open scan. After an error PostgreSQL itself releases relations, snapshots and pages, at the end of the
/// transaction.
///
/// Its methods are to be called in this order: `lock_index`, `take_snapshot`, `begin`, the others, `end`.
#[derive(Clone, Copy)]
pub struct Scan {
    relation: pg_sys::Relation,
    /// 0 where the whole table is read.
    index: pg_sys::Oid,
    scan: pg_sys::SysScanDesc,
}

const INDEX_MODE: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

impl Scan {
    /// Locks an index of an open table, until the scan ends.
    ///
    /// # Safety
    /// To be called before `take_snapshot`.
    pub unsafe fn lock_index(index: pg_sys::Oid) {
        // SAFETY: as the caller promises.
        unsafe { pg_sys::LockRelationOid(index, INDEX_MODE) }
    }

    /// # Safety
    /// `index` is what `lock_index` locked.
    pub unsafe fn unlock_index(index: pg_sys::Oid) {
        // SAFETY: as the caller promises.
        unsafe { pg_sys::UnlockRelationOid(index, INDEX_MODE) }
    }

    /// Takes the snapshot that the scan is going to see by: a new one, as each statement has, which sees
    /// what the last one did. It stays PostgreSQL's active snapshot until `end`.
    ///
    /// # Safety
    /// To be called once the table and its index are locked: an older snapshot could miss what was committed
    /// while they were waited for.
    pub unsafe fn take_snapshot(mode: SnapshotMode) {
        // SAFETY: as the caller promises.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(match mode {
                SnapshotMode::Transaction => pg_sys::GetTransactionSnapshot(),
                SnapshotMode::Latest => pg_sys::GetLatestSnapshot(),
            });
        }
    }

    /// Scans `relation` by `index`, or all of it where that is 0.
    ///
    /// # Safety
    /// To be called after `take_snapshot`, with an open and locked table, a locked index of it
    /// that has these columns first and in this order, and values of their types.
    pub unsafe fn begin(
        relation: pg_sys::Relation,
        index: pg_sys::Oid,
        arguments: &[Argument],
    ) -> Self {
        // SAFETY: as the caller promises. The keys are copied, or read no more after the scan's start.
        unsafe {
            let mut keys: [pg_sys::ScanKeyData; MAX_KEYS] = Default::default();
            for (key, argument) in keys.iter_mut().zip(arguments) {
                pg_sys::ScanKeyEntryInitialize(
                    key,
                    0,
                    argument.column,
                    pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                    pg_sys::InvalidOid,
                    pg_sys::C_COLLATION_OID,
                    argument.equality.into(),
                    argument.value,
                );
            }
            let scan = pg_sys::systable_beginscan(
                relation,
                index,
                index != pg_sys::InvalidOid,
                pg_sys::GetActiveSnapshot(),
                arguments.len() as i32,
                keys.as_mut_ptr(),
            );
            Self {
                relation,
                index,
                scan,
            }
        }
    }

    /// Goes on to the next row; None where there is no more.
    pub unsafe fn next(self) -> Option<Values> {
        // SAFETY: an open scan; the tuple lives until the next one is asked for, and is copied.
        unsafe {
            let tuple = pg_sys::systable_getnext(self.scan);
            (!tuple.is_null()).then(|| self.copy(tuple))
        }
    }

    /// Locks the row that the scan is at, and waits for whoever has it locked. `TM_Result` says how it
    /// went, as ExecLockRows reads it.
    pub unsafe fn lock(self, lock: RowLock) -> LockOutcome {
        let mode = match lock {
            RowLock::KeyShare => pg_sys::LockTupleMode::LockTupleKeyShare,
            RowLock::NoKeyUpdate => pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
        };
        let one_snapshot = uses_transaction_snapshot();
        let last_version = if one_snapshot {
            0
        } else {
            pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION
        };
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: an open scan at a tuple, and its table's own method, which every table has.
        unsafe {
            let Some(tuple_lock) = (*(*self.relation).rd_tableam).tuple_lock else {
                return LockOutcome::Unexpected;
            };
            let slot = (*self.scan).slot;
            let (snapshot, command) = (
                pg_sys::GetActiveSnapshot(),
                pg_sys::GetCurrentCommandId(true),
            );
            let flags = (pg_sys::TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS | last_version) as u8;
            // pgrx guards what is declared by name, and this is not.
            let result = pg_guard_ffi_boundary(|| {
                tuple_lock(
                    self.relation,
                    &raw mut (*slot).tts_tid,
                    snapshot,
                    slot,
                    command,
                    mode,
                    pg_sys::LockWaitPolicy::LockWaitBlock,
                    flags,
                    &mut failure,
                )
            });
            match result {
                pg_sys::TM_Result::TM_Ok => LockOutcome::Locked {
                    moved: failure.traversed,
                },
                pg_sys::TM_Result::TM_SelfModified => LockOutcome::NotFound,
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted if one_snapshot => {
                    LockOutcome::SerializationFailure
                }
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => {
                    LockOutcome::ConcurrentlyUpdated
                }
                _ => LockOutcome::Unexpected,
            }
        }
    }

    /// The row as it was locked.
    pub unsafe fn locked(self) -> Values {
        let mut to_be_freed = false;
        // SAFETY: the slot holds the version that was locked; it is copied.
        unsafe {
            let slot = (*self.scan).slot;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut to_be_freed);
            self.copy(tuple)
        }
    }

    unsafe fn copy(self, tuple: pg_sys::HeapTuple) -> Values {
        // SAFETY: a tuple of the table and its descriptor; the arrays have a member for each column.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let columns = (*descriptor).natts as usize;
            let values = pg_sys::palloc(columns * size_of::<pg_sys::Datum>()).cast();
            let nulls = pg_sys::palloc(columns * size_of::<bool>()).cast();
            let copy = pg_sys::heap_copytuple(tuple);
            pg_sys::heap_deform_tuple(copy, descriptor, values, nulls);
            Values { values, nulls }
        }
    }

    /// Ends the scan and gives its snapshot and its index back; the table stays open.
    pub unsafe fn end(self) -> pg_sys::Relation {
        // SAFETY: what `begin` opened, the snapshot that `take_snapshot` took and the lock of `lock_index`.
        unsafe {
            pg_sys::systable_endscan(self.scan);
            pg_sys::PopActiveSnapshot();
            if self.index != pg_sys::InvalidOid {
                Self::unlock_index(self.index);
            }
        }
        self.relation
    }
}

impl Default for Values {
    fn default() -> Self {
        Self {
            values: null_mut(),
            nulls: null_mut(),
        }
    }
}
