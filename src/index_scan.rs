//! Rows read, and locked, by an index and without a statement.
//!
//! A row found by a kept plan costs some 28,000 instructions, by its index 15,000; locked by a plan
//! 30,000, here 17,000. And a plan that was made while a table was small goes on reading all of it. So
//! what is looked up by a key is looked up in its index, in the way in which PostgreSQL reads its own
//! catalogues. What is written goes through statements: constraints, triggers and foreign keys are
//! theirs.

use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use pgrx::{FromDatum, IntoDatum, pg_sys};
use uuid::Uuid;

use crate::fmgr::pg_uuid;
use crate::raise::{Failure, Report, SqlState, internal};
use crate::statements::Spi;

/// Calls of PostgreSQL's without pgrx's guard: `catch` stands around them.
mod unguarded {
    use std::ffi::{c_char, c_int};

    use pgrx::pg_sys;

    unsafe extern "C-unwind" {
        pub fn CommandCounterIncrement();
        pub fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
        pub fn GetTransactionSnapshot() -> pg_sys::Snapshot;
        pub fn PushActiveSnapshot(snapshot: pg_sys::Snapshot);
        pub fn GetActiveSnapshot() -> pg_sys::Snapshot;
        pub fn PopActiveSnapshot();
        pub fn get_namespace_oid(name: *const c_char, missing_ok: bool) -> pg_sys::Oid;
        pub fn get_relname_relid(name: *const c_char, namespace: pg_sys::Oid) -> pg_sys::Oid;
        pub fn get_rel_relkind(relation: pg_sys::Oid) -> c_char;
        pub fn SearchSysCache1(cache: c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
        pub fn ReleaseSysCache(tuple: pg_sys::HeapTuple);
        pub fn SysCacheGetAttr(
            cache: c_int,
            tuple: pg_sys::HeapTuple,
            attribute: pg_sys::AttrNumber,
            is_null: *mut bool,
        ) -> pg_sys::Datum;
        pub fn heap_attisnull(
            tuple: pg_sys::HeapTuple,
            attribute: c_int,
            descriptor: pg_sys::TupleDesc,
        ) -> bool;
        pub fn table_open(relation: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> pg_sys::Relation;
        pub fn table_close(relation: pg_sys::Relation, mode: pg_sys::LOCKMODE);
        pub fn ScanKeyEntryInitialize(
            entry: pg_sys::ScanKey,
            flags: c_int,
            attribute: pg_sys::AttrNumber,
            strategy: pg_sys::StrategyNumber,
            subtype: pg_sys::Oid,
            collation: pg_sys::Oid,
            procedure: pg_sys::RegProcedure,
            argument: pg_sys::Datum,
        );
        pub fn systable_beginscan(
            relation: pg_sys::Relation,
            index: pg_sys::Oid,
            index_ok: bool,
            snapshot: pg_sys::Snapshot,
            keys: c_int,
            key: pg_sys::ScanKey,
        ) -> pg_sys::SysScanDesc;
        pub fn systable_getnext(scan: pg_sys::SysScanDesc) -> pg_sys::HeapTuple;
        pub fn systable_endscan(scan: pg_sys::SysScanDesc);
        pub fn heap_copytuple(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple;
        pub fn heap_deform_tuple(
            tuple: pg_sys::HeapTuple,
            descriptor: pg_sys::TupleDesc,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
        );
        pub fn SPI_gettypeid(descriptor: pg_sys::TupleDesc, column: c_int) -> pg_sys::Oid;
        pub fn palloc(size: usize) -> *mut std::ffi::c_void;
        pub fn CacheRegisterRelcacheCallback(
            callback: pg_sys::RelcacheCallbackFunction,
            argument: pg_sys::Datum,
        );
    }
}

/// An index of a table of ours. Where the table has none like it under this name, all of it is read.
pub struct Index {
    pub table: &'static CStr,
    pub name: &'static CStr,
    /// The numbers of the table's columns that it is made of, from 1.
    pub key: &'static [pg_sys::AttrNumber],
    /// The types of the table's first columns, as many as are read.
    pub columns: &'static [pg_sys::Oid],
    pub found: Found,
}

/// The oids of an index and its table, from when they were last looked up by name: a tenth of a scan.
pub struct Found {
    /// The age in which they were; 0 for never.
    age: AtomicU64,
    table: AtomicU32,
    index: AtomicU32,
}

impl Found {
    pub const fn not_yet() -> Self {
        Self {
            age: AtomicU64::new(0),
            table: AtomicU32::new(0),
            index: AtomicU32::new(0),
        }
    }

    fn is_no_table(&self) -> bool {
        self.age.load(Relaxed) == AGE.load(Relaxed) && self.table.load(Relaxed) == 0
    }
}

/// An age ends when PostgreSQL says that a relation has changed, whichever: made, dropped, renamed.
static AGE: AtomicU64 = AtomicU64::new(0);

/// # Safety
/// To be called by PostgreSQL.
unsafe extern "C-unwind" fn end_age(_: pg_sys::Datum, _: pg_sys::Oid) {
    AGE.fetch_add(1, Relaxed);
}

/// A value to look for.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    Text(&'a str),
    Uuid(Uuid),
}

impl Key<'_> {
    fn datum(self) -> pg_sys::Datum {
        let datum = match self {
            Self::Text(text) => text.into_datum(),
            Self::Uuid(id) => pg_uuid(id).into_datum(),
        };
        datum.unwrap_or(pg_sys::Datum::null())
    }

    fn equality(self) -> u32 {
        match self {
            Self::Text(_) => pg_sys::F_TEXTEQ,
            Self::Uuid(_) => pg_sys::F_UUID_EQ,
        }
    }
}

/// A row that was found: a copy that lives as long as the connection.
pub struct Row<'s> {
    values: *const pg_sys::Datum,
    nulls: *const bool,
    types: &'static [pg_sys::Oid],
    spi: PhantomData<&'s Spi>,
}

impl Row<'_> {
    /// The value of a column of the table, counted from 1; None where it is NULL.
    pub fn get<T: FromDatum + IntoDatum + 'static>(
        &self,
        column: usize,
    ) -> Result<Option<T>, Failure> {
        // SAFETY: what is not borrowed has no end.
        unsafe { self.value(column) }
    }

    /// The value of a column that cannot be NULL.
    pub fn required<T: FromDatum + IntoDatum + 'static>(
        &self,
        column: usize,
    ) -> Result<T, Failure> {
        self.get(column)?.ok_or_else(|| internal("NULL"))
    }

    pub fn text(&self, column: usize) -> Result<Option<&str>, Failure> {
        // SAFETY: borrowed from the row.
        unsafe { self.value(column) }
    }

    pub fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Failure> {
        // SAFETY: borrowed from the row.
        unsafe { self.value(column) }
    }

    pub fn is_null(&self, column: usize) -> bool {
        let place = column.wrapping_sub(1);
        // SAFETY: as in `value`.
        place < self.types.len() && unsafe { *self.nulls.add(place) }
    }

    /// # Safety
    /// What `T` borrows may not outlive the row.
    unsafe fn value<T: FromDatum + IntoDatum>(&self, column: usize) -> Result<Option<T>, Failure> {
        let place = column.wrapping_sub(1);
        if self.types.get(place) != Some(&T::type_oid()) {
            return Err(internal("column"));
        }
        // SAFETY: the types of these columns were compared with those that the table has, and the
        // arrays have a member for each.
        Ok(unsafe { T::from_datum(*self.values.add(place), *self.nulls.add(place)) })
    }
}

/// How many columns the longest key has.
const MAX_KEYS: usize = 3;

impl Index {
    /// The row with this key, where the key is the whole of a unique one.
    pub fn row<'s>(&self, spi: &'s Spi, key: &[Key]) -> Result<Option<Row<'s>>, Failure> {
        Ok(self.rows(spi, key)?.pop())
    }

    pub fn has_row(&self, spi: &Spi, key: &[Key]) -> Result<bool, Failure> {
        Ok(!self.rows(spi, key)?.is_empty())
    }

    /// The rows whose key begins like this; in order of it, while the index has its name.
    pub fn rows<'s>(&self, spi: &'s Spi, key: &[Key]) -> Result<Vec<Row<'s>>, Failure> {
        let arguments = self.arguments(key)?;
        let mut rows = vec![];
        // SAFETY: see `Scan`; nothing in here needs dropping, `rows` is outside.
        let as_expected = unsafe {
            self.catch(spi, || {
                let scan = Scan::begin(self, &arguments[..key.len()], pg_sys::AccessShareLock);
                let as_expected = scan.has_columns(self.columns);
                while as_expected && let Some(tuple) = scan.next() {
                    let (values, nulls) = scan.copy(tuple);
                    rows.push(Row {
                        values,
                        nulls,
                        types: self.columns,
                        spi: PhantomData,
                    });
                }
                // Read is read; and a session has but 16 places for locks that cost little.
                scan.end(pg_sys::AccessShareLock);
                as_expected
            })
        }?;
        if !as_expected {
            return Err(internal("columns"));
        }
        Ok(rows)
    }

    /// Locks the row with this key, as a foreign key does that points to it (FOR KEY SHARE), and
    /// answers whether it is there; whoever deletes it is waited for.
    pub fn lock(&self, spi: &Spi, key: &[Key]) -> Result<bool, Failure> {
        loop {
            match self.try_lock(spi, key)? {
                Lock::Held => return Ok(true),
                Lock::Absent => return Ok(false),
                // Somebody has to commit a change of the row each time.
                Lock::Changed => {}
                Lock::ChangedSinceSnapshot => return Err(changed_since_snapshot()),
                Lock::Refused => return Err(internal("tuple_lock")),
            }
        }
    }

    fn try_lock(&self, spi: &Spi, key: &[Key]) -> Result<Lock, Failure> {
        let arguments = self.arguments(key)?;
        // SAFETY: see `Scan`; nothing in here needs dropping.
        unsafe {
            self.catch(spi, || {
                let scan = Scan::begin(self, &arguments[..key.len()], pg_sys::RowShareLock);
                let lock = match scan.next() {
                    Some(_) => scan.lock(),
                    None => Lock::Absent,
                };
                scan.end(pg_sys::NoLock);
                lock
            })
        }
    }

    /// Whether triggers or rules of the application's take part when the table is written; those that
    /// PostgreSQL has for foreign keys do not count.
    pub fn table_has_triggers(&self, spi: &Spi) -> Result<bool, Failure> {
        // SAFETY: see `Scan`; nothing in here needs dropping. An open table's triggers and rules are
        // in memory, null where it has none.
        unsafe {
            self.catch(spi, || {
                let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
                let relation = unguarded::table_open(self.table_oid(), mode);
                let triggers = (*relation).trigdesc;
                let has_triggers = !(*relation).rd_rules.is_null()
                    || !triggers.is_null()
                        && (0..(*triggers).numtriggers as usize)
                            .any(|n| !(*(*triggers).triggers.add(n)).tgisinternal);
                unguarded::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
                has_triggers
            })
        }
    }

    /// As [`Spi::catch`], and on its conditions; 42809 where there is no table to look into: a view, say.
    unsafe fn catch<T>(&self, spi: &Spi, call: impl FnOnce() -> T) -> Result<T, Failure> {
        // SAFETY: as the caller promises.
        let answer = unsafe { spi.catch(call) };
        answer.map_err(|failure| match self.found.is_no_table() {
            true => not_a_table(self.table),
            false => failure,
        })
    }

    fn arguments(&self, key: &[Key]) -> Result<[Argument; MAX_KEYS], Failure> {
        if key.len() > self.key.len().min(MAX_KEYS) {
            return Err(internal("key"));
        }
        let mut arguments = [Argument::default(); MAX_KEYS];
        for ((argument, column), value) in arguments.iter_mut().zip(self.key).zip(key) {
            *argument = Argument {
                column: *column,
                equality: value.equality(),
                value: value.datum(),
            };
        }
        Ok(arguments)
    }
}

impl Index {
    /// The oid of the table.
    ///
    /// # Safety
    /// To be called inside `catch`.
    unsafe fn table_oid(&self) -> pg_sys::Oid {
        // SAFETY: as the caller promises.
        unsafe { self.find() };
        self.found.table.load(Relaxed).into()
    }

    /// The oid of the index, 0 where there is none of this name; once the table is open, which makes
    /// known what has changed.
    ///
    /// # Safety
    /// To be called inside `catch`.
    unsafe fn oid(&self) -> pg_sys::Oid {
        // SAFETY: as the caller promises.
        unsafe { self.find() };
        self.found.index.load(Relaxed).into()
    }

    unsafe fn find(&self) {
        // SAFETY: zero-terminated names; a function that stays, told of changes from the first age on.
        unsafe {
            if AGE.load(Relaxed) == 0 {
                unguarded::CacheRegisterRelcacheCallback(Some(end_age), pg_sys::Datum::null());
                AGE.store(1, Relaxed);
            }
            let age = AGE.load(Relaxed);
            if self.found.age.load(Relaxed) == age {
                return;
            }
            let schema = unguarded::get_namespace_oid(c"magic_link".as_ptr(), false);
            let mut table = unguarded::get_relname_relid(self.table.as_ptr(), schema);
            if unguarded::get_rel_relkind(table) as u8 != pg_sys::RELKIND_RELATION {
                table = pg_sys::InvalidOid;
            }
            let mut index = unguarded::get_relname_relid(self.name.as_ptr(), schema);
            if !self.is_like(index, table) {
                index = pg_sys::InvalidOid;
            }
            self.found.table.store(table.to_u32(), Relaxed);
            self.found.index.store(index.to_u32(), Relaxed);
            self.found.age.store(age, Relaxed);
        }
    }

    /// Whether an index is of this table, has all of its rows, and begins with this key in the order of its
    /// bytes. A table that was renamed, to put another one in its place, takes its indexes along under their
    /// names: what they say of the other one is the place of somebody else's row.
    ///
    /// # Safety
    /// To be called inside `catch`.
    unsafe fn is_like(&self, index: pg_sys::Oid, table: pg_sys::Oid) -> bool {
        let cache = pg_sys::SysCacheIdentifier::INDEXRELID as c_int;
        // SAFETY: a row of pg_index, held until it was read, or null; an index has as many keys, and
        // collations for them, as it says.
        unsafe {
            let tuple = unguarded::SearchSysCache1(cache, index.into());
            if tuple.is_null() {
                return false;
            }
            let header = (*tuple).t_data;
            let index: *const pg_sys::FormData_pg_index =
                header.byte_add((*header).t_hoff.into()).cast();
            let count = (*index).indnkeyatts as usize;
            let keys = (&raw const (*index).indkey.values).cast::<pg_sys::AttrNumber>();
            let keys = std::slice::from_raw_parts(keys, count);
            let predicate = pg_sys::Anum_pg_index_indpred as c_int;
            let is_like = (*index).indrelid == table
                && (*index).indisvalid
                && unguarded::heap_attisnull(tuple, predicate, null_mut())
                && keys.starts_with(self.key)
                && collations(tuple, count)
                    .iter()
                    .take(self.key.len())
                    .all(|collation| {
                        [pg_sys::InvalidOid, pg_sys::C_COLLATION_OID].contains(collation)
                    });
            unguarded::ReleaseSysCache(tuple);
            is_like
        }
    }
}

/// Those of an index's keys, none where a key's type has none.
///
/// # Safety
/// As for `is_like`; a row of pg_index of an index with so many keys, which is held as long as the answer.
unsafe fn collations<'a>(tuple: pg_sys::HeapTuple, count: usize) -> &'a [pg_sys::Oid] {
    let cache = pg_sys::SysCacheIdentifier::INDEXRELID as c_int;
    let attribute = pg_sys::Anum_pg_index_indcollation as pg_sys::AttrNumber;
    let mut is_null = false;
    // SAFETY: the column is never NULL, and an oidvector is as it is in the row.
    unsafe {
        let datum = unguarded::SysCacheGetAttr(cache, tuple, attribute, &mut is_null);
        let vector = datum.cast_mut_ptr::<pg_sys::oidvector>();
        std::slice::from_raw_parts((&raw const (*vector).values).cast(), count)
    }
}

/// How an attempt at a lock ended.
enum Lock {
    Held,
    Absent,
    /// There is another version now, or none: look again.
    Changed,
    /// The same, where the transaction may not look again.
    ChangedSinceSnapshot,
    /// For no reason that there is.
    Refused,
}

fn not_a_table(name: &CStr) -> Failure {
    let message = format!("magic_link.{} is not a table", name.to_string_lossy());
    Report::new(SqlState::WRONG_OBJECT_TYPE, message).into()
}

/// 40001, in PostgreSQL's own words.
fn changed_since_snapshot() -> Failure {
    Report::new(
        SqlState::SERIALIZATION_FAILURE,
        "could not serialize access due to concurrent update",
    )
    .into()
}

/// What a column is compared with.
#[derive(Clone, Copy)]
struct Argument {
    column: pg_sys::AttrNumber,
    equality: u32,
    value: pg_sys::Datum,
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

/// An open scan. It holds nothing that Rust would have to drop: after an error PostgreSQL itself lets
/// go of relations, snapshots and pages at the end of the transaction.
///
/// Its methods may be called inside `catch` alone, in this order: `begin`, the others, `end`.
struct Scan {
    relation: pg_sys::Relation,
    scan: pg_sys::SysScanDesc,
}

impl Scan {
    /// With a snapshot of its own, as each statement has, which sees what the last one did.
    unsafe fn begin(index: &Index, arguments: &[Argument], mode: u32) -> Self {
        // SAFETY: the names are zero-terminated; the lock that is taken keeps the table as it is until
        // the scan's end at least. The keys are copied, or read no more after the scan's start.
        unsafe {
            unguarded::CommandCounterIncrement();
            unguarded::PushActiveSnapshot(unguarded::GetTransactionSnapshot());
            let relation = unguarded::table_open(index.table_oid(), mode as pg_sys::LOCKMODE);
            let name = index.oid();
            let mut keys: [pg_sys::ScanKeyData; MAX_KEYS] = Default::default();
            for (key, argument) in keys.iter_mut().zip(arguments) {
                unguarded::ScanKeyEntryInitialize(
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
            let scan = unguarded::systable_beginscan(
                relation,
                name,
                name != pg_sys::InvalidOid,
                unguarded::GetActiveSnapshot(),
                arguments.len() as i32,
                keys.as_mut_ptr(),
            );
            Self { relation, scan }
        }
    }

    /// Whether the table's columns begin with these types.
    unsafe fn has_columns(&self, types: &[pg_sys::Oid]) -> bool {
        // SAFETY: the descriptor of an open table; a column that is not there has no type.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            (1..)
                .zip(types)
                .all(|(column, oid)| unguarded::SPI_gettypeid(descriptor, column) == *oid)
        }
    }

    unsafe fn next(&self) -> Option<pg_sys::HeapTuple> {
        // SAFETY: an open scan.
        let tuple = unsafe { unguarded::systable_getnext(self.scan) };
        (!tuple.is_null()).then_some(tuple)
    }

    /// The values of a tuple's columns, in memory of the connection's.
    unsafe fn copy(&self, tuple: pg_sys::HeapTuple) -> (*const pg_sys::Datum, *const bool) {
        // SAFETY: a tuple of the scan and its descriptor; the arrays have a member for each column.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let columns = (*descriptor).natts as usize;
            let values = unguarded::palloc(columns * size_of::<pg_sys::Datum>()).cast();
            let nulls = unguarded::palloc(columns * size_of::<bool>()).cast();
            let copy = unguarded::heap_copytuple(tuple);
            unguarded::heap_deform_tuple(copy, descriptor, values, nulls);
            (values, nulls)
        }
    }

    /// Locks the tuple that the scan is at.
    unsafe fn lock(&self) -> Lock {
        let mut failure = pg_sys::TM_FailureData::default();
        // SAFETY: an open scan at a tuple, and the table's own method; as the executor does it for FOR
        // KEY SHARE. A table has a tuple_lock.
        unsafe {
            let one_snapshot = pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32;
            let last_version = if one_snapshot {
                0
            } else {
                pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION
            };
            let Some(tuple_lock) = (*(*self.relation).rd_tableam).tuple_lock else {
                return Lock::Refused;
            };
            let slot = (*self.scan).slot;
            let result = tuple_lock(
                self.relation,
                &raw mut (*slot).tts_tid,
                unguarded::GetActiveSnapshot(),
                slot,
                unguarded::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleKeyShare,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                (pg_sys::TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS | last_version) as u8,
                &mut failure,
            );
            match result {
                pg_sys::TM_Result::TM_Ok if !failure.traversed => Lock::Held,
                pg_sys::TM_Result::TM_Ok => Lock::Changed,
                // By ourselves, in a trigger.
                pg_sys::TM_Result::TM_SelfModified => Lock::Absent,
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted if one_snapshot => {
                    Lock::ChangedSinceSnapshot
                }
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => Lock::Changed,
                _ => Lock::Refused,
            }
        }
    }

    /// Gives back this lock on the table; without one it is held to the end of the transaction.
    unsafe fn end(self, mode: u32) {
        // SAFETY: what `begin` opened.
        unsafe {
            unguarded::systable_endscan(self.scan);
            unguarded::table_close(self.relation, mode as pg_sys::LOCKMODE);
            unguarded::PopActiveSnapshot();
        }
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::pg_sys::{TEXTOID, UUIDOID};
    use pgrx::prelude::*;

    use super::{Found, Index, Key, Relaxed};
    use crate::statements::Spi;

    static ROLES: Index = Index {
        table: c"organization_jit_roles",
        name: c"organization_jit_roles_pkey",
        key: &[1],
        columns: &[TEXTOID, TEXTOID],
        found: Found::not_yet(),
    };

    fn default_roles(organization: &str) -> Vec<String> {
        let spi = Spi::connect().unwrap();
        let rows = ROLES.rows(&spi, &[Key::Text(organization)]).unwrap();
        rows.iter().map(|row| row.required(2).unwrap()).collect()
    }

    fn fill() {
        pgrx::Spi::run(
            "INSERT INTO magic_link.organizations VALUES ('acme', 'Acme'), ('globex', 'Globex');
             INSERT INTO magic_link.organization_roles VALUES ('c', 'C'), ('a', 'A'), ('b', 'B');
             INSERT INTO magic_link.organization_jit_roles
             VALUES ('acme', 'c'), ('acme', 'a'), ('acme', 'b'), ('globex', 'b')",
        )
        .unwrap();
    }

    #[pg_test]
    fn rows_come_in_the_order_of_their_keys() {
        fill();
        assert_eq!(default_roles("acme"), ["a", "b", "c"]);
        assert_eq!(default_roles("globex"), ["b"]);
        assert!(default_roles("initech").is_empty());
    }

    #[pg_test]
    fn an_index_of_another_name_is_not_missed() {
        fill();
        let index = || ROLES.found.index.load(Relaxed);
        assert_eq!(default_roles("globex"), ["b"]);
        let found = index();
        pgrx::Spi::run("ALTER INDEX magic_link.organization_jit_roles_pkey RENAME TO another")
            .unwrap();
        assert_eq!(default_roles("acme").len(), 3);
        assert_eq!(default_roles("globex"), ["b"]);
        assert_eq!(index(), 0);
        pgrx::Spi::run("ALTER INDEX magic_link.another RENAME TO organization_jit_roles_pkey")
            .unwrap();
        assert_eq!(default_roles("acme"), ["a", "b", "c"]);
        assert_eq!(index(), found);
    }

    #[pg_test]
    fn columns_of_other_types_are_refused() {
        fill();
        let spi = Spi::connect().unwrap();
        let row = ROLES.rows(&spi, &[Key::Text("globex")]).unwrap().remove(0);
        assert_eq!(row.text(2).unwrap(), Some("b"));
        assert!(row.get::<i32>(2).is_err());
        assert!(row.get::<String>(3).is_err());
        let others = Index {
            table: ROLES.table,
            name: ROLES.name,
            key: ROLES.key,
            columns: &[TEXTOID, UUIDOID],
            found: Found::not_yet(),
        };
        assert!(others.rows(&spi, &[Key::Text("globex")]).is_err());
    }

    /// That others wait for it is seen where there are others: tests/races.rs.
    #[pg_test]
    fn what_is_there_is_locked() {
        fill();
        let spi = Spi::connect().unwrap();
        let organizations = Index {
            table: c"organizations",
            name: c"organizations_pkey",
            key: &[1],
            columns: &[],
            found: Found::not_yet(),
        };
        assert!(organizations.lock(&spi, &[Key::Text("acme")]).unwrap());
        assert!(!organizations.lock(&spi, &[Key::Text("initech")]).unwrap());
    }

    #[pg_test]
    fn triggers_and_rules_are_noticed_and_foreign_keys_are_not() {
        let noticed = || ROLES.table_has_triggers(&Spi::connect().unwrap()).unwrap();
        assert!(!noticed());
        pgrx::Spi::run(
            "CREATE RULE twice AS ON INSERT TO magic_link.organization_jit_roles DO ALSO NOTIFY roles",
        )
        .unwrap();
        assert!(noticed());
        pgrx::Spi::run(
            "DROP RULE twice ON magic_link.organization_jit_roles;
             CREATE FUNCTION pg_temp.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER pass BEFORE INSERT ON magic_link.organization_jit_roles FOR EACH ROW EXECUTE FUNCTION pg_temp.pass()",
        )
        .unwrap();
        assert!(noticed());
    }
}
