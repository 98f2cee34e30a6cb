//! Rows looked up, and locked, by a key, without a statement.
//!
//! A row found by a kept plan costs some 28,000 instructions, by its index 15,000; locked by a plan
//! 30,000, here 17,000. And a plan that was made while a table was small goes on reading all of it. So
//! what is looked up by a key is looked up in its index, in the way in which PostgreSQL reads its own
//! catalogues. What is written goes through statements: constraints, triggers and foreign keys are
//! theirs.
//!
//! Nothing that was looked up before a wait is trusted after it:
//! - the table is locked, and then its name is looked up again ([`Table::open`]);
//! - the index is one of the opened table's own list, by what it is and not by its name, and is
//!   locked before the snapshot is taken;
//! - the row that an index leads to is compared with the key again, and so is its locked version.

use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use pgrx::{IntoDatum, pg_sys};
use uuid::Uuid;

use crate::postgres::datum::{Jsonb, Owned, characters, pg_uuid};
use crate::postgres::error::{Error, SqlState, internal};
use crate::postgres::invalidation::{generation, watch};
use crate::postgres::scan::{
    Argument, LockOutcome, MAX_KEYS, Scan, SnapshotMode, Strength, Values,
};
use crate::postgres::spi::Spi;
use crate::postgres::table::Table;

/// A table and the columns by which its rows are looked up. Where no index of the table serves, the
/// whole table is read.
pub struct IndexLookup {
    table: &'static Table,
    /// The numbers of the table's columns that a key is made of, from 1.
    key: &'static [pg_sys::AttrNumber],
    /// Whether the key has one row at most.
    unique: bool,
    /// The index that serves, 0 for none, and the generation in which it did; 0 for never.
    index: AtomicU32,
    chosen_in: AtomicU64,
    /// As `Choice::check_xmin`.
    check_xmin: AtomicU32,
}

/// An index that serves a lookup.
#[derive(Clone, Copy)]
struct Choice {
    index: pg_sys::Oid,
    /// Where PostgreSQL set indcheckxmin, the transaction that made the index's row: whose snapshot is
    /// older may not use it (get_relation_info does the same). Else 0.
    check_xmin: pg_sys::TransactionId,
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

    fn is_in(self, row: &HeapRow, column: usize) -> Result<bool, Error> {
        match self {
            Self::Text(text) => Ok(row.text(column)? == Some(text)),
            Self::Uuid(id) => Ok(row.get::<pgrx::Uuid>(column)? == Some(pg_uuid(id))),
        }
    }
}

/// A row that was found: a copy that lives as long as the connection.
pub struct HeapRow<'s> {
    values: Values,
    table: &'static Table,
    spi: PhantomData<&'s Spi<'s>>,
}

impl<'s> HeapRow<'s> {
    /// The value of a column of the table, counted from 1; None where it is NULL.
    pub fn get<T: Owned>(&self, column: usize) -> Result<Option<T>, Error> {
        let datum = self.datum(column, T::type_oid())?;
        // SAFETY: a value of T's own type.
        Ok(datum.and_then(|datum| unsafe { T::from_datum(datum, false) }))
    }

    /// The value of a column that cannot be NULL.
    pub fn required<T: Owned>(&self, column: usize) -> Result<T, Error> {
        self.get(column)?.ok_or_else(|| internal("NULL"))
    }

    pub fn text(&self, column: usize) -> Result<Option<&'s str>, Error> {
        let bytes = self.varlena(column, pg_sys::TEXTOID)?;
        bytes.map(characters).transpose()
    }

    pub fn required_text(&self, column: usize) -> Result<&'s str, Error> {
        self.text(column)?.ok_or_else(|| internal("NULL"))
    }

    pub fn bytes(&self, column: usize) -> Result<Option<&'s [u8]>, Error> {
        self.varlena(column, pg_sys::BYTEAOID)
    }

    pub fn required_jsonb(&self, column: usize) -> Result<Jsonb<'s>, Error> {
        let datum = self.datum(column, pg_sys::JSONBOID)?;
        // SAFETY: a jsonb in memory of the connection's.
        let jsonb = datum.map(|datum| unsafe { Jsonb::from_datum(datum) });
        jsonb.ok_or_else(|| internal("NULL"))
    }

    pub fn is_null(&self, column: usize) -> Result<bool, Error> {
        let place = self.place(column)?;
        // SAFETY: as in `datum`.
        Ok(unsafe { *self.values.nulls.add(place) })
    }

    fn varlena(&self, column: usize, oid: pg_sys::Oid) -> Result<Option<&'s [u8]>, Error> {
        let datum = self.datum(column, oid)?;
        // SAFETY: a text and a bytea have the same form. In memory of the connection's, and so is what is
        // detoasted, since no other connection is opened inside of it.
        Ok(datum.and_then(|datum| unsafe { pgrx::FromDatum::from_datum(datum, false) }))
    }

    /// The place, from 0, of a column that is counted from 1.
    fn place(&self, column: usize) -> Result<usize, Error> {
        let place = column.wrapping_sub(1);
        if place >= self.table.columns.len() {
            return Err(internal("column"));
        }
        Ok(place)
    }

    fn datum(&self, column: usize, oid: pg_sys::Oid) -> Result<Option<pg_sys::Datum>, Error> {
        let place = self.place(column)?;
        if self.table.columns[place].1 != oid {
            return Err(internal("column"));
        }
        // SAFETY: the table was opened with at least these columns, of these types, and the arrays have a
        // member for each.
        unsafe {
            let is_null = *self.values.nulls.add(place);
            Ok((!is_null).then(|| *self.values.values.add(place)))
        }
    }
}

/// A row with the scan that is at it still open, so that it can be locked without a second look. Unless
/// the call fails it has to be locked or closed.
#[must_use]
pub struct FoundRow<'s> {
    lookup: &'static IndexLookup,
    spi: &'s Spi<'s>,
    scan: Scan,
    row: HeapRow<'s>,
}

/// What became of a row that was to be locked.
pub enum LockedRow<'s> {
    /// As it is behind the lock, still with the key that it was looked up by.
    Locked(HeapRow<'s>),
    /// It is not there any more, or has another key: look again.
    Changed,
}

impl<'s> FoundRow<'s> {
    pub fn row(&self) -> &HeapRow<'s> {
        &self.row
    }

    /// Leaves the row as it is, unlocked.
    pub fn close(self) {
        // SAFETY: an open scan of a table that `Table::open` opened.
        unsafe { Table::close(self.scan.end()) }
    }

    /// Locks the row until the end of the transaction; 40001 where it was changed since the snapshot of
    /// a transaction that has but one.
    pub fn lock(self, key: &[Key], strength: Strength) -> Result<LockedRow<'s>, Error> {
        let (scan, lookup) = (self.scan, self.lookup);
        // SAFETY: an open scan at a row; what is locked is in its slot.
        let (outcome, values) = unsafe {
            let outcome = scan.lock(strength);
            let values = match outcome {
                LockOutcome::Locked { .. } => scan.locked(),
                _ => Values::default(),
            };
            Table::close(scan.end());
            (outcome, values)
        };
        match outcome {
            LockOutcome::Locked { moved } => {
                let row = lookup.copied(self.spi, values);
                // Where it moved the key may have been changed; else it is the one that was compared.
                if moved && !lookup.has_key(&row, key)? {
                    return Ok(LockedRow::Changed);
                }
                Ok(LockedRow::Locked(row))
            }
            LockOutcome::NotFound | LockOutcome::ConcurrentlyUpdated => Ok(LockedRow::Changed),
            LockOutcome::SerializationFailure => Err(concurrent_update()),
            LockOutcome::Unexpected => Err(internal("tuple_lock")),
        }
    }
}

impl IndexLookup {
    /// For a key that has one row at most.
    pub const fn unique(table: &'static Table, key: &'static [pg_sys::AttrNumber]) -> Self {
        Self::new(table, key, true)
    }

    /// For a key, or the first columns of one, that several rows may have.
    pub const fn of_many(table: &'static Table, key: &'static [pg_sys::AttrNumber]) -> Self {
        Self::new(table, key, false)
    }

    const fn new(table: &'static Table, key: &'static [pg_sys::AttrNumber], unique: bool) -> Self {
        Self {
            table,
            key,
            unique,
            index: AtomicU32::new(0),
            chosen_in: AtomicU64::new(0),
            check_xmin: AtomicU32::new(0),
        }
    }

    /// The row with this key. A snapshot that sees two has one that is gone since: 40001.
    pub fn row<'s>(&self, spi: &'s Spi, key: &[Key]) -> Result<Option<HeapRow<'s>>, Error> {
        self.row_in(spi, key, SnapshotMode::Transaction)
    }

    /// The same, out of all that is committed.
    pub fn latest_row<'s>(&self, spi: &'s Spi, key: &[Key]) -> Result<Option<HeapRow<'s>>, Error> {
        self.row_in(spi, key, SnapshotMode::Latest)
    }

    fn row_in<'s>(
        &self,
        spi: &'s Spi,
        key: &[Key],
        mode: SnapshotMode,
    ) -> Result<Option<HeapRow<'s>>, Error> {
        let mut rows = self.rows_in(spi, key, mode)?;
        if rows.len() > 1 {
            return Err(concurrent_update());
        }
        Ok(rows.pop())
    }

    pub fn has_row(&self, spi: &Spi, key: &[Key]) -> Result<bool, Error> {
        Ok(!self.rows(spi, key)?.is_empty())
    }

    /// The rows whose key begins like this, in no order.
    pub fn rows<'s>(&self, spi: &'s Spi, key: &[Key]) -> Result<Vec<HeapRow<'s>>, Error> {
        self.rows_in(spi, key, SnapshotMode::Transaction)
    }

    fn rows_in<'s>(
        &self,
        spi: &'s Spi,
        key: &[Key],
        mode: SnapshotMode,
    ) -> Result<Vec<HeapRow<'s>>, Error> {
        let arguments = self.arguments(key)?;
        let mut rows = vec![];
        // SAFETY: the scan is ended, or, after an error, ended by PostgreSQL with the transaction.
        unsafe {
            let scan = self.begin(&arguments[..key.len()], pg_sys::AccessShareLock, mode)?;
            while let Some(values) = scan.next() {
                rows.push(self.copied(spi, values));
            }
            Table::close(scan.end());
        }
        for row in &rows {
            self.compare(row, key)?;
        }
        Ok(rows)
    }

    /// The row with this key, to be locked if it is the right one. With `mode`, a lock on the table that
    /// what is done with the row afterwards needs: so that nothing is waited for later.
    pub fn find<'s>(
        &'static self,
        spi: &'s Spi,
        key: &[Key],
        mode: u32,
    ) -> Result<Option<FoundRow<'s>>, Error> {
        let arguments = self.arguments(key)?;
        // SAFETY: the scan is ended here, or by whoever has the row that was found.
        let (scan, values) = unsafe {
            let arguments = &arguments[..key.len()];
            let scan = self.begin(arguments, mode, SnapshotMode::Transaction)?;
            let Some(values) = scan.next() else {
                Table::close(scan.end());
                return Ok(None);
            };
            (scan, values)
        };
        let row = self.copied(spi, values);
        let found = FoundRow {
            lookup: self,
            spi,
            scan,
            row,
        };
        self.compare(&found.row, key)?;
        Ok(Some(found))
    }

    /// Locks the row with this key until the end of the transaction, and answers it as it is then; None
    /// where there is none. Whoever changes or deletes it is waited for.
    pub fn lock<'s>(
        &'static self,
        spi: &'s Spi,
        key: &[Key],
        strength: Strength,
    ) -> Result<Option<HeapRow<'s>>, Error> {
        let mode = match strength {
            Strength::KeyShare => pg_sys::RowShareLock,
            Strength::NoKeyUpdate => pg_sys::RowExclusiveLock,
        };
        // Somebody has to commit a change of the row for each further turn.
        while let Some(found) = self.find(spi, key, mode)? {
            if let LockedRow::Locked(row) = found.lock(key, strength)? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Whether triggers or rules of the application's take part when the table is written; those that
    /// PostgreSQL has for foreign keys do not count. None can be made until the end of the transaction.
    pub fn table_has_triggers(&self) -> Result<bool, Error> {
        // SAFETY: an open table's triggers and rules are in memory, null where it has none.
        unsafe {
            let relation = self.table.open(pg_sys::RowExclusiveLock)?;
            let triggers = (*relation).trigdesc;
            let has_triggers = !(*relation).rd_rules.is_null()
                || !triggers.is_null()
                    && (0..(*triggers).numtriggers as usize)
                        .any(|n| !(*(*triggers).triggers.add(n)).tgisinternal);
            Table::close(relation);
            Ok(has_triggers)
        }
    }

    /// The row has the key that it was looked up by. An index that says otherwise is corrupted; but the
    /// answer would be somebody else's.
    fn compare(&self, row: &HeapRow, key: &[Key]) -> Result<(), Error> {
        if self.has_key(row, key)? {
            return Ok(());
        }
        Err(self.table.index_is_corrupted())
    }

    fn has_key(&self, row: &HeapRow, key: &[Key]) -> Result<bool, Error> {
        for (column, value) in self.key.iter().zip(key) {
            if !value.is_in(row, *column as usize)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn copied<'s>(&self, _: &'s Spi, values: Values) -> HeapRow<'s> {
        HeapRow {
            values,
            table: self.table,
            spi: PhantomData,
        }
    }

    fn arguments(&self, key: &[Key]) -> Result<[Argument; MAX_KEYS], Error> {
        let whole = key.len() == self.key.len();
        if key.len() > self.key.len().min(MAX_KEYS) || self.unique && !whole {
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

impl IndexLookup {
    unsafe fn begin(
        &self,
        arguments: &[Argument],
        lock: u32,
        mode: SnapshotMode,
    ) -> Result<Scan, Error> {
        // SAFETY: the table and its index are locked before the snapshot is taken.
        unsafe {
            let relation = self.table.open(lock)?;
            let choice = self.lock_index(relation);
            Scan::take_snapshot(mode);
            let index = self.usable(choice);
            Ok(Scan::begin(relation, index, arguments))
        }
    }

    /// Locks the index that serves, if there is one: an index can be locked by itself (ALTER INDEX SET
    /// TABLESPACE, REINDEX INDEX), and what is committed while that is waited for is to be seen. It goes not
    /// away while the table is locked: DROP INDEX waits for the lock, and CONCURRENTLY for those who have it.
    unsafe fn lock_index(&self, relation: pg_sys::Relation) -> Choice {
        loop {
            // SAFETY: an open table.
            unsafe {
                let choice = self.choice(relation);
                if choice.index == pg_sys::InvalidOid {
                    return choice;
                }
                Scan::lock_index(choice.index);
                if self.chosen_in.load(Relaxed) == generation() {
                    return choice;
                }
                // Something was changed while we waited: choose again.
                Scan::unlock_index(choice.index);
            }
        }
    }

    /// The index that serves; kept while nothing of the table changes.
    unsafe fn choice(&self, relation: pg_sys::Relation) -> Choice {
        // SAFETY: an open table.
        let generation = unsafe { generation() };
        if self.chosen_in.load(Relaxed) == generation {
            return Choice {
                index: self.index.load(Relaxed).into(),
                check_xmin: self.check_xmin.load(Relaxed).into(),
            };
        }
        // SAFETY: as above.
        let choice = unsafe { self.choose(relation) };
        watch(choice.index);
        self.index.store(choice.index.to_u32(), Relaxed);
        self.check_xmin
            .store(choice.check_xmin.into_inner(), Relaxed);
        self.chosen_in.store(generation, Relaxed);
        choice
    }

    /// The index that was locked, if the active snapshot is not too old for it; else 0, and it is unlocked.
    unsafe fn usable(&self, choice: Choice) -> pg_sys::Oid {
        // SAFETY: a snapshot is active, and has set TransactionXmin.
        unsafe {
            if choice.check_xmin == pg_sys::TransactionId::INVALID
                || pg_sys::TransactionIdPrecedes(choice.check_xmin, pg_sys::TransactionXmin)
            {
                return choice.index;
            }
            Scan::unlock_index(choice.index);
        }
        pg_sys::InvalidOid
    }

    /// The best index in the table's own list: one that any snapshot may use before one that may have to
    /// be passed over.
    unsafe fn choose(&self, relation: pg_sys::Relation) -> Choice {
        let none = Choice {
            index: pg_sys::InvalidOid,
            check_xmin: pg_sys::TransactionId::INVALID,
        };
        // SAFETY: an open table; a list of oids, null where it is empty.
        unsafe {
            let list = pg_sys::RelationGetIndexList(relation);
            let mut best = none;
            let length = if list.is_null() { 0 } else { (*list).length };
            for n in 0..length as usize {
                let Some(choice) = self.as_choice((*(*list).elements.add(n)).oid_value) else {
                    continue;
                };
                let waits = |choice: Choice| choice.check_xmin != pg_sys::TransactionId::INVALID;
                if best.index == pg_sys::InvalidOid || waits(best) && !waits(choice) {
                    best = choice;
                }
            }
            pg_sys::list_free(list);
            best
        }
    }

    /// None where the index does not find every row with a key, by the order of bytes.
    unsafe fn as_choice(&self, index: pg_sys::Oid) -> Option<Choice> {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: an index of an open table. It has a row in pg_index, and of each
        // column a number, an operator family and a collation.
        unsafe {
            let relation = pg_sys::index_open(index, mode);
            let choice = self.serves(relation).then(|| Choice {
                index,
                check_xmin: if (*(*relation).rd_index).indcheckxmin {
                    xmin_of((*relation).rd_indextuple)
                } else {
                    pg_sys::TransactionId::INVALID
                },
            });
            pg_sys::index_close(relation, mode);
            choice
        }
    }

    unsafe fn serves(&self, relation: pg_sys::Relation) -> bool {
        // SAFETY: as above; the last argument is for columns that a table has and a tuple has not.
        unsafe {
            let form = (*relation).rd_index;
            let width = (*form).indnkeyatts as usize;
            let columns = (*form).indkey.values.as_slice(width);
            let collations = std::slice::from_raw_parts((*relation).rd_indcollation, width);
            let families = std::slice::from_raw_parts((*relation).rd_opfamily, width);
            let predicate = pg_sys::Anum_pg_index_indpred as i32;
            let on_key = if self.unique {
                (*form).indisunique && columns == self.key
            } else {
                columns.starts_with(self.key)
            };
            on_key
                && (*(*relation).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*form).indisvalid
                && (*form).indisready
                && (*form).indislive
                && pg_sys::heap_attisnull((*relation).rd_indextuple, predicate, null_mut())
                && families.iter().zip(self.key).all(|(family, column)| {
                    let (_, of_column) = self.table.columns[*column as usize - 1];
                    *family == family_of(of_column)
                })
                && collations.iter().take(self.key.len()).all(|collation| {
                    [pg_sys::InvalidOid, pg_sys::C_COLLATION_OID].contains(collation)
                })
        }
    }
}

/// The operator family by which a key's comparison is PostgreSQL's default one.
fn family_of(column: pg_sys::Oid) -> pg_sys::Oid {
    /// pg_opfamily's `uuid_ops` of btree.
    const UUID_OPS: u32 = 2968;
    if column == pg_sys::UUIDOID {
        UUID_OPS.into()
    } else {
        pg_sys::TEXT_BTREE_FAM_OID
    }
}

/// HeapTupleHeaderGetXmin: a frozen row is older than any snapshot.
unsafe fn xmin_of(tuple: pg_sys::HeapTuple) -> pg_sys::TransactionId {
    // SAFETY: a tuple, whose header says what its xmin is.
    unsafe {
        let header = (*tuple).t_data;
        let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
        if (*header).t_infomask & frozen == frozen {
            return pg_sys::TransactionId::FROZEN;
        }
        (*header).t_choice.t_heap.t_xmin
    }
}

/// 40001, in the words that ExecLockRows has for a row that was changed or deleted.
pub fn concurrent_update() -> Error {
    let message = "could not serialize access due to concurrent update";
    Error::new(SqlState::SERIALIZATION_FAILURE, message)
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::pg_sys::{TEXTOID, UUIDOID};
    use pgrx::prelude::*;

    use super::{Error, IndexLookup, Key, Relaxed, SqlState, Strength};
    use crate::postgres::datum::CallMemory;
    use crate::postgres::spi::Spi;
    use crate::postgres::table::Table;

    static ROLES: Table = Table::new(
        c"organization_jit_roles",
        &[
            (c"organization_id", TEXTOID),
            (c"organization_role_id", TEXTOID),
        ],
    );
    static ROLES_OF: IndexLookup = IndexLookup::of_many(&ROLES, &[1]);
    static ROLE: IndexLookup = IndexLookup::unique(&ROLES, &[1, 2]);

    fn spi() -> Spi<'static> {
        Spi::connect(CallMemory::of_test()).unwrap()
    }

    fn default_roles(organization: &str) -> Vec<String> {
        let spi = spi();
        let rows = ROLES_OF.rows(&spi, &[Key::Text(organization)]).unwrap();
        let mut roles: Vec<String> = rows.iter().map(|row| row.required(2).unwrap()).collect();
        roles.sort();
        roles
    }

    fn has_role(organization: &str, role: &str) -> bool {
        let key = [Key::Text(organization), Key::Text(role)];
        ROLE.has_row(&spi(), &key).unwrap()
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
    fn rows_are_found_by_the_whole_key_and_by_its_beginning() {
        fill();
        assert_eq!(default_roles("acme"), ["a", "b", "c"]);
        assert_eq!(default_roles("globex"), ["b"]);
        assert!(default_roles("initech").is_empty());
        assert!(has_role("acme", "a"));
        assert!(!has_role("globex", "a"));
        assert!(ROLE.has_row(&spi(), &[Key::Text("acme")]).is_err());
    }

    #[pg_test]
    fn an_index_is_known_by_what_it_is_and_not_by_its_name() {
        fill();
        assert_eq!(default_roles("globex"), ["b"]);
        let index = ROLES_OF.index.load(Relaxed);
        assert_ne!(index, 0);
        pgrx::Spi::run("ALTER INDEX magic_link.organization_jit_roles_pkey RENAME TO another")
            .unwrap();
        assert_eq!(default_roles("globex"), ["b"]);
        assert_eq!(ROLES_OF.index.load(Relaxed), index);
    }

    #[pg_test]
    fn an_index_that_does_not_find_every_row_is_not_asked() {
        fill();
        pgrx::Spi::run("ALTER TABLE magic_link.organization_jit_roles DROP CONSTRAINT organization_jit_roles_pkey").unwrap();
        let (columns, by_icu) = (
            "organization_id, organization_role_id",
            "organization_id COLLATE \"en-x-icu\"",
        );
        for (unique, definition, serves) in [
            (
                "",
                "(organization_role_id, organization_id)".to_owned(),
                [false, false],
            ),
            (
                "",
                "(organization_id) WHERE organization_id < 'b'".to_owned(),
                [false, false],
            ),
            ("", format!("({by_icu})"), [false, false]),
            (
                "",
                "(organization_id text_pattern_ops)".to_owned(),
                [false, false],
            ),
            (
                "",
                "USING hash (organization_id)".to_owned(),
                [false, false],
            ),
            ("", "((organization_id || ''))".to_owned(), [false, false]),
            ("", "(organization_id)".to_owned(), [true, false]),
            ("", format!("({columns})"), [true, false]),
            ("UNIQUE", format!("({columns})"), [true, true]),
            (
                "UNIQUE",
                "(organization_id DESC, organization_role_id)".to_owned(),
                [true, true],
            ),
            (
                "UNIQUE",
                format!("({columns}) WHERE organization_id < 'b'"),
                [false, false],
            ),
            (
                "UNIQUE",
                "(organization_role_id, organization_id)".to_owned(),
                [false, false],
            ),
        ] {
            pgrx::Spi::run(&format!(
                "CREATE {unique} INDEX organization_jit_roles_pkey ON magic_link.organization_jit_roles {definition}"
            ))
            .unwrap();
            assert_eq!(default_roles("globex"), ["b"], "{definition}");
            assert!(has_role("globex", "b"), "{definition}");
            let asked = [&ROLES_OF, &ROLE].map(|lookup| lookup.index.load(Relaxed) != 0);
            assert_eq!(asked, serves, "{unique} {definition}");
            pgrx::Spi::run("DROP INDEX magic_link.organization_jit_roles_pkey").unwrap();
        }
    }

    #[pg_test]
    fn columns_of_other_types_are_refused() {
        fill();
        let spi = spi();
        let row = ROLES_OF
            .rows(&spi, &[Key::Text("globex")])
            .unwrap()
            .remove(0);
        assert_eq!(row.text(2).unwrap(), Some("b"));
        assert!(row.get::<i32>(2).is_err());
        assert!(row.get::<String>(3).is_err());
    }

    #[pg_test]
    fn a_table_with_other_columns_is_refused() {
        static OTHER_TYPE: Table = Table::new(
            c"organization_jit_roles",
            &[
                (c"organization_id", TEXTOID),
                (c"organization_role_id", UUIDOID),
            ],
        );
        static OTHER_NAME: Table = Table::new(c"organization_jit_roles", &[(c"id", TEXTOID)]);
        static MISSING: Table = Table::new(c"nothing", &[(c"id", TEXTOID)]);
        static BY_TYPE: IndexLookup = IndexLookup::of_many(&OTHER_TYPE, &[1]);
        static BY_NAME: IndexLookup = IndexLookup::of_many(&OTHER_NAME, &[1]);
        static NOTHING: IndexLookup = IndexLookup::of_many(&MISSING, &[1]);
        let wrong = SqlState::WRONG_OBJECT_TYPE;
        for (lookup, sqlstate) in [
            (&BY_TYPE, wrong),
            (&BY_NAME, wrong),
            (&NOTHING, SqlState::UNDEFINED_TABLE),
        ] {
            let key = [Key::Text("acme")];
            assert!(is_refused(lookup.rows(&spi(), &key).err(), sqlstate));
            let locked = lookup.lock(&spi(), &key, Strength::KeyShare).err();
            assert!(is_refused(locked, sqlstate));
            assert!(is_refused(lookup.table_has_triggers().err(), sqlstate));
        }
    }

    #[pg_test]
    fn a_view_in_the_tables_place_is_refused() {
        pgrx::Spi::run(
            "ALTER TABLE magic_link.organization_jit_roles RENAME TO another;
             CREATE VIEW magic_link.organization_jit_roles AS TABLE magic_link.another",
        )
        .unwrap();
        let failure = ROLES_OF.rows(&spi(), &[Key::Text("acme")]).err();
        assert!(is_refused(failure, SqlState::WRONG_OBJECT_TYPE));
    }

    fn is_refused(failure: Option<Error>, sqlstate: SqlState) -> bool {
        failure.is_some_and(|error| error.sqlstate == sqlstate)
    }

    /// That others wait for it is seen where there are others: tests/races.rs.
    #[pg_test]
    fn what_is_there_is_locked() {
        fill();
        let spi = spi();
        for strength in [Strength::KeyShare, Strength::NoKeyUpdate] {
            let lock = |role| {
                let key = [Key::Text("acme"), Key::Text(role)];
                ROLE.lock(&spi, &key, strength).unwrap().is_some()
            };
            assert!(lock("a"));
            assert!(!lock("d"));
        }
    }

    #[pg_test]
    fn triggers_and_rules_are_noticed_and_foreign_keys_are_not() {
        let noticed = || ROLES_OF.table_has_triggers().unwrap();
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
