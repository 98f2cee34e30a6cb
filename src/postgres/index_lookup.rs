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

use pgrx::pg_sys;

use super::error::Error;
use super::heap_row::{HeapRow, Key};
use super::index_choice::IndexChoice;
use super::scan::{Argument, LockOutcome, MAX_KEYS, RowLock, Scan, SnapshotMode, Values};
use super::spi::SpiConnection;
use super::table::Table;

/// A table and the columns by which its rows are looked up. Where no index of the table serves, the
/// whole table is read.
pub struct IndexLookup {
    table: &'static Table,
    /// The numbers of the table's columns that a key is made of, from 1.
    key: &'static [pg_sys::AttrNumber],
    /// Whether the key has one row at most.
    unique: bool,
    pub(super) index: IndexChoice,
}

/// A row with the scan that is at it still open, so that it can be locked without a second look. Unless
/// the call fails it has to be locked or closed.
#[must_use]
pub struct FoundRow<'s> {
    lookup: &'static IndexLookup,
    spi: &'s SpiConnection<'s>,
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
    pub fn lock(self, key: &[Key], lock: RowLock) -> Result<LockedRow<'s>, Error> {
        let (scan, lookup) = (self.scan, self.lookup);
        // SAFETY: an open scan at a row; what is locked is in its slot.
        let (outcome, values) = unsafe {
            let outcome = scan.lock(lock);
            let values = match outcome {
                LockOutcome::Locked { .. } => scan.locked(),
                _ => Values::default(),
            };
            Table::close(scan.end());
            (outcome, values)
        };
        match outcome {
            LockOutcome::Locked { moved } => {
                let row = HeapRow::new(self.spi, lookup.table, values);
                // Where it moved the key may have been changed; else it is the one that was compared.
                if moved && !lookup.has_key(&row, key)? {
                    return Ok(LockedRow::Changed);
                }
                Ok(LockedRow::Locked(row))
            }
            LockOutcome::NotFound | LockOutcome::ConcurrentlyUpdated => Ok(LockedRow::Changed),
            LockOutcome::SerializationFailure => Err(Error::concurrent_update()),
            LockOutcome::Unexpected => Err(Error::internal("tuple_lock")),
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
            index: IndexChoice::new(table, key, unique),
        }
    }

    /// The row with this key. A snapshot that sees two has one that is gone since: 40001.
    pub fn row<'s>(
        &self,
        spi: &'s SpiConnection,
        key: &[Key],
    ) -> Result<Option<HeapRow<'s>>, Error> {
        self.row_in(spi, key, SnapshotMode::Transaction)
    }

    /// The same, out of all that is committed.
    pub fn latest_row<'s>(
        &self,
        spi: &'s SpiConnection,
        key: &[Key],
    ) -> Result<Option<HeapRow<'s>>, Error> {
        self.row_in(spi, key, SnapshotMode::Latest)
    }

    fn row_in<'s>(
        &self,
        spi: &'s SpiConnection,
        key: &[Key],
        mode: SnapshotMode,
    ) -> Result<Option<HeapRow<'s>>, Error> {
        let mut rows = self.rows_in(spi, key, mode)?;
        if rows.len() > 1 {
            return Err(Error::concurrent_update());
        }
        Ok(rows.pop())
    }

    pub fn has_row(&self, spi: &SpiConnection, key: &[Key]) -> Result<bool, Error> {
        Ok(!self.rows(spi, key)?.is_empty())
    }

    /// The rows whose key begins like this, in no order.
    pub fn rows<'s>(&self, spi: &'s SpiConnection, key: &[Key]) -> Result<Vec<HeapRow<'s>>, Error> {
        self.rows_in(spi, key, SnapshotMode::Transaction)
    }

    fn rows_in<'s>(
        &self,
        spi: &'s SpiConnection,
        key: &[Key],
        mode: SnapshotMode,
    ) -> Result<Vec<HeapRow<'s>>, Error> {
        let arguments = self.arguments(key)?;
        let mut rows = vec![];
        // SAFETY: the scan is ended, or, after an error, ended by PostgreSQL with the transaction.
        unsafe {
            let scan = self.begin(&arguments[..key.len()], pg_sys::AccessShareLock, mode)?;
            while let Some(values) = scan.next() {
                rows.push(HeapRow::new(spi, self.table, values));
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
        spi: &'s SpiConnection,
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
        let row = HeapRow::new(spi, self.table, values);
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
        spi: &'s SpiConnection,
        key: &[Key],
        lock: RowLock,
    ) -> Result<Option<HeapRow<'s>>, Error> {
        let mode = match lock {
            RowLock::KeyShare => pg_sys::RowShareLock,
            RowLock::NoKeyUpdate => pg_sys::RowExclusiveLock,
        };
        // Somebody has to commit a change of the row for each further turn.
        while let Some(found) = self.find(spi, key, mode)? {
            if let LockedRow::Locked(row) = found.lock(key, lock)? {
                return Ok(Some(row));
            }
        }
        Ok(None)
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

    fn arguments(&self, key: &[Key]) -> Result<[Argument; MAX_KEYS], Error> {
        let whole = key.len() == self.key.len();
        if key.len() > self.key.len().min(MAX_KEYS) || self.unique && !whole {
            return Err(Error::internal("key"));
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

    /// Opens the table with the lock `table_lock`, and a scan of it.
    ///
    /// # Safety
    /// The scan is to be ended, and the table closed.
    unsafe fn begin(
        &self,
        arguments: &[Argument],
        table_lock: u32,
        mode: SnapshotMode,
    ) -> Result<Scan, Error> {
        // SAFETY: the table and its index are locked before the snapshot is taken.
        unsafe {
            let relation = self.table.open(table_lock)?;
            let index = self.index.lock(relation);
            Scan::take_snapshot(mode);
            let oid = index.for_active_snapshot();
            Ok(Scan::begin(relation, oid, arguments))
        }
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::{Key, RowLock};
    use crate::postgres::test_tables::{ROLE, ROLES_OF, default_roles, fill, has_role, spi};

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

    /// That others wait for it is seen where there are others: tests/races.rs.
    #[pg_test]
    fn what_is_there_is_locked() {
        fill();
        let spi = spi();
        for strength in [RowLock::KeyShare, RowLock::NoKeyUpdate] {
            let lock = |role| {
                let key = [Key::Text("acme"), Key::Text(role)];
                ROLE.lock(&spi, &key, strength).unwrap().is_some()
            };
            assert!(lock("a"));
            assert!(!lock("d"));
        }
    }
}
