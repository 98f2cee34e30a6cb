//! Rows read, and locked, by an index and without a statement.
//!
//! A row found by a kept plan costs some 28,000 instructions, by its index 15,000; locked by a plan
//! 30,000, here 17,000. And a plan that was made while a table was small goes on reading all of it. So
//! what is looked up by a key is looked up in its index, in the way in which PostgreSQL reads its own
//! catalogues. What is written goes through statements: constraints, triggers and foreign keys are
//! theirs.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use pgrx::{FromDatum, IntoDatum, pg_sys};
use uuid::Uuid;

use crate::fmgr::{characters, pg_uuid};
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
        pub fn table_open(relation: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> pg_sys::Relation;
        pub fn table_close(relation: pg_sys::Relation, mode: pg_sys::LOCKMODE);
        pub fn index_open(index: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> pg_sys::Relation;
        pub fn index_close(index: pg_sys::Relation, mode: pg_sys::LOCKMODE);
        pub fn heap_attisnull(
            tuple: pg_sys::HeapTuple,
            column: c_int,
            descriptor: pg_sys::TupleDesc,
        ) -> bool;
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

/// An index of a table of ours. Where there is none of this name that serves, the table is read as a
/// whole.
pub struct Index {
    pub table: &'static CStr,
    pub name: &'static CStr,
    /// The numbers of the table's columns that it is made of, from 1.
    pub key: &'static [pg_sys::AttrNumber],
    /// The types of the table's first columns: the key's, and as many as are read.
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
        // SAFETY: borrowed from the row; a text has the form of a bytea.
        let bytes: Option<&[u8]> = unsafe { self.value_of(column, pg_sys::TEXTOID) }?;
        bytes.map(characters).transpose()
    }

    pub fn required_text(&self, column: usize) -> Result<&str, Failure> {
        self.text(column)?.ok_or_else(|| internal("NULL"))
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
        // SAFETY: the type is T's own.
        unsafe { self.value_of(column, T::type_oid()) }
    }

    /// # Safety
    /// As above, and a value of the type is to have T's form.
    unsafe fn value_of<T: FromDatum>(
        &self,
        column: usize,
        oid: pg_sys::Oid,
    ) -> Result<Option<T>, Failure> {
        let place = column.wrapping_sub(1);
        if self.types.get(place) != Some(&oid) {
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
    /// The row with this key, where the key is the whole of a unique one. A snapshot that sees two has one that is gone since.
    pub fn row<'s>(&self, spi: &'s Spi, key: &[Key]) -> Result<Option<Row<'s>>, Failure> {
        let mut rows = self.rows(spi, key)?;
        if rows.len() > 1 {
            return Err(changed_since_snapshot());
        }
        Ok(rows.pop())
    }

    pub fn has_row(&self, spi: &Spi, key: &[Key]) -> Result<bool, Failure> {
        Ok(!self.rows(spi, key)?.is_empty())
    }

    /// The rows whose key begins like this; in order of it, while the index has its name.
    pub fn rows<'s>(&self, spi: &'s Spi, key: &[Key]) -> Result<Vec<Row<'s>>, Failure> {
        let arguments = self.arguments(key)?;
        let mut rows = vec![];
        // SAFETY: see `Scan`; nothing in here needs dropping, `rows` is outside.
        let as_made = unsafe {
            spi.catch(|| {
                let arguments = &arguments[..key.len()];
                let Some(scan) = Scan::begin(self, arguments, pg_sys::AccessShareLock) else {
                    return false;
                };
                while let Some(tuple) = scan.next() {
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
                true
            })
        }?;
        if !as_made {
            return Err(self.table_was_changed());
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
                Lock::NoSuchTable => return Err(self.table_was_changed()),
            }
        }
    }

    fn try_lock(&self, spi: &Spi, key: &[Key]) -> Result<Lock, Failure> {
        let arguments = self.arguments(key)?;
        // SAFETY: see `Scan`; nothing in here needs dropping.
        unsafe {
            spi.catch(|| {
                let arguments = &arguments[..key.len()];
                let Some(scan) = Scan::begin(self, arguments, pg_sys::RowShareLock) else {
                    return Lock::NoSuchTable;
                };
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
            spi.catch(|| {
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

    /// By a superuser: what is the extension's, nobody else can change.
    fn table_was_changed(&self) -> Failure {
        let message = format!(
            "magic_link.{} is not the table that the extension created",
            self.table.to_string_lossy()
        );
        Report::new(SqlState::WRONG_OBJECT_TYPE, message).into()
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
        // SAFETY: zero-terminated names; a function that stays, told of changes from the first age on;
        // an index's oid where there is one.
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
            let table = unguarded::get_relname_relid(self.table.as_ptr(), schema);
            let mut index = unguarded::get_relname_relid(self.name.as_ptr(), schema);
            if index != pg_sys::InvalidOid && !self.is_served_by(index, table) {
                index = pg_sys::InvalidOid;
            }
            self.found.table.store(table.to_u32(), Relaxed);
            self.found.index.store(index.to_u32(), Relaxed);
            self.found.age.store(age, Relaxed);
        }
    }

    /// Whether all rows of the table are found by this index, in any snapshot.
    ///
    /// # Safety
    /// To be called inside `catch`, with the oid of a relation.
    unsafe fn is_served_by(&self, index: pg_sys::Oid, table: pg_sys::Oid) -> bool {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: an open index has a row in pg_index, and of each column a number and a collation.
        unsafe {
            let relation = unguarded::index_open(index, mode);
            let form = (*relation).rd_index;
            let width = (*form).indnkeyatts as usize;
            let columns = (*form).indkey.values.as_slice(width);
            let collations = std::slice::from_raw_parts((*relation).rd_indcollation, width);
            let bytewise = [pg_sys::InvalidOid, pg_sys::C_COLLATION_OID];
            let predicate = pg_sys::Anum_pg_index_indpred as i32;
            let serves = (*form).indrelid == table
                && (*(*relation).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*form).indisvalid
                && !(*form).indcheckxmin
                && unguarded::heap_attisnull((*relation).rd_indextuple, predicate, null_mut())
                && columns.starts_with(self.key)
                && collations
                    .iter()
                    .all(|collation| bytewise.contains(collation));
            unguarded::index_close(relation, mode);
            serves
        }
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
    NoSuchTable,
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

/// Whether it is an ordinary table (a view has no rows of its own) whose columns begin with these types.
///
/// # Safety
/// To be called inside `catch`, with an open relation.
unsafe fn is_table_of(relation: pg_sys::Relation, types: &[pg_sys::Oid]) -> bool {
    // SAFETY: an open relation has a row in pg_class and a descriptor; a column that is not there has
    // no type.
    unsafe {
        (*(*relation).rd_rel).relkind == pg_sys::RELKIND_RELATION as std::ffi::c_char
            && (1..)
                .zip(types)
                .all(|(column, oid)| unguarded::SPI_gettypeid((*relation).rd_att, column) == *oid)
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
    /// With a snapshot of its own, as each statement has, which sees what the last one did. None where
    /// the table is not the one that is meant.
    unsafe fn begin(index: &Index, arguments: &[Argument], mode: u32) -> Option<Self> {
        // SAFETY: the names are zero-terminated; the lock that is taken keeps the table as it is until
        // the scan's end at least. The keys are copied, or read no more after the scan's start.
        unsafe {
            unguarded::CommandCounterIncrement();
            let relation = unguarded::table_open(index.table_oid(), mode as pg_sys::LOCKMODE);
            if !is_table_of(relation, index.columns) {
                unguarded::table_close(relation, mode as pg_sys::LOCKMODE);
                return None;
            }
            unguarded::PushActiveSnapshot(unguarded::GetTransactionSnapshot());
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
            Some(Self { relation, scan })
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

    use super::{Failure, Found, Index, Key, Relaxed, SqlState};
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

    #[pg_test]
    fn an_index_that_does_not_find_every_row_is_not_asked() {
        fill();
        for definition in [
            "magic_link.organization_jit_roles (organization_role_id, organization_id)",
            "magic_link.organization_jit_roles (organization_id) WHERE organization_id < 'b'",
            "magic_link.organization_jit_roles (organization_id COLLATE \"default\")",
            "magic_link.organization_jit_roles USING hash (organization_id)",
            "magic_link.organization_roles (id)",
        ] {
            pgrx::Spi::run(&format!(
                "ALTER INDEX IF EXISTS magic_link.organization_jit_roles_pkey RENAME TO another;
                 CREATE INDEX organization_jit_roles_pkey ON {definition}"
            ))
            .unwrap();
            assert_eq!(default_roles("globex"), ["b"], "{definition}");
            assert_eq!(ROLES.found.index.load(Relaxed), 0, "{definition}");
            pgrx::Spi::run("DROP INDEX magic_link.organization_jit_roles_pkey").unwrap();
        }
    }

    #[pg_test]
    fn a_view_in_the_tables_place_is_refused() {
        pgrx::Spi::run(
            "ALTER TABLE magic_link.organization_jit_roles RENAME TO another;
             CREATE VIEW magic_link.organization_jit_roles AS TABLE magic_link.another",
        )
        .unwrap();
        let spi = Spi::connect().unwrap();
        let key = [Key::Text("acme")];
        assert!(is_refused(ROLES.rows(&spi, &key).err()));
        assert!(is_refused(ROLES.lock(&spi, &key).err()));
    }

    fn is_refused(failure: Option<Failure>) -> bool {
        matches!(failure, Some(Failure::Report(report)) if report.sqlstate == SqlState::WRONG_OBJECT_TYPE)
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
            columns: &[TEXTOID],
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
