//! A table of ours, opened by its name: the lock comes first, and behind it the name is looked up again.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use pgrx::pg_sys;

use super::datum::Column;
use super::error::{Error, SqlState};
use super::invalidation::{generation, watch};

/// A table and the first of its columns: those that we read.
pub struct Table {
    name: &'static CStr,
    pub columns: &'static [Column],
    /// The oid that the name had, and the generation in which it had it; 0 for never.
    oid: AtomicU32,
    named_in: AtomicU64,
    /// The generation in which the columns were compared.
    compared_in: AtomicU64,
}

impl Table {
    pub const fn new(name: &'static CStr, columns: &'static [Column]) -> Self {
        Self {
            name,
            columns,
            oid: AtomicU32::new(0),
            named_in: AtomicU64::new(0),
            compared_in: AtomicU64::new(0),
        }
    }

    /// Opens the table with a lock that is held to the end of the transaction, as any statement's is:
    /// given back earlier, it would let a TRUNCATE or a swap in between two looks of one transaction.
    ///
    /// # Safety
    /// The relation is to be closed by `close`.
    pub unsafe fn open(&self, mode: u32) -> Result<pg_sys::Relation, Error> {
        let mode = mode as pg_sys::LOCKMODE;
        // SAFETY: as the caller promises; the table that is opened is locked.
        unsafe {
            let oid = self.lock(mode);
            if oid == pg_sys::InvalidOid {
                return Err(self.missing());
            }
            let generation = generation();
            let relation = pg_sys::table_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            if self.compared_in.load(Relaxed) != generation {
                if !self.is_like(relation) {
                    pg_sys::table_close(relation, mode);
                    return Err(self.different());
                }
                self.compared_in.store(generation, Relaxed);
            }
            Ok(relation)
        }
    }

    /// Whether triggers or rules of the application's take part when the table is written; those that
    /// PostgreSQL has for foreign keys do not count. None can be made until the end of the transaction.
    pub fn has_triggers(&self) -> Result<bool, Error> {
        // SAFETY: an open table's triggers and rules are in memory, null where it has none.
        unsafe {
            let relation = self.open(pg_sys::RowExclusiveLock)?;
            let triggers = (*relation).trigdesc;
            let has_triggers = !(*relation).rd_rules.is_null()
                || !triggers.is_null()
                    && (0..(*triggers).numtriggers as usize)
                        .any(|n| !(*(*triggers).triggers.add(n)).tgisinternal);
            Self::close(relation);
            Ok(has_triggers)
        }
    }

    /// Locks whatever has the name once the lock is there, as RangeVarGetRelid does; 0 where nothing has.
    unsafe fn lock(&self, mode: pg_sys::LOCKMODE) -> pg_sys::Oid {
        let mut locked = pg_sys::InvalidOid;
        loop {
            // SAFETY: as the caller promises; a lock on an oid whose relation is gone harms nobody.
            unsafe {
                let generation = generation();
                let oid = self.named(generation);
                if locked != pg_sys::InvalidOid && locked == oid {
                    return oid;
                }
                if locked != pg_sys::InvalidOid {
                    pg_sys::UnlockRelationOid(locked, mode);
                }
                if oid == pg_sys::InvalidOid {
                    return oid;
                }
                pg_sys::LockRelationOid(oid, mode);
                if self.named_in.load(Relaxed) == self::generation() {
                    return oid;
                }
                // Somebody changed something while we waited: see what the name means now.
                locked = oid;
            }
        }
    }

    /// What has the name; kept while nothing of it changes, since looking is a tenth of a scan.
    unsafe fn named(&self, generation: u64) -> pg_sys::Oid {
        if self.named_in.load(Relaxed) == generation {
            return self.oid.load(Relaxed).into();
        }
        // SAFETY: as the caller promises; zero-terminated names.
        unsafe {
            let schema = pg_sys::get_namespace_oid(c"magic_link".as_ptr(), false);
            let oid = pg_sys::get_relname_relid(self.name.as_ptr(), schema);
            // What comes to have the name later would send no message that we watch for.
            let kept_in = if oid == pg_sys::InvalidOid {
                0
            } else {
                generation
            };
            watch(oid);
            self.oid.store(oid.to_u32(), Relaxed);
            self.named_in.store(kept_in, Relaxed);
            oid
        }
    }

    /// Whether it is an ordinary table (a view has no rows of its own) that begins with our columns, in
    /// their order: they are read by their numbers.
    ///
    /// # Safety
    /// `relation` is open.
    unsafe fn is_like(&self, relation: pg_sys::Relation) -> bool {
        // SAFETY: an open relation has a row in pg_class and a descriptor.
        unsafe {
            let descriptor = (*relation).rd_att;
            (*(*relation).rd_rel).relkind == pg_sys::RELKIND_RELATION as c_char
                && (1..).zip(self.columns).all(|(number, (name, oid))| {
                    pg_sys::SPI_fnumber(descriptor, name.as_ptr()) == number
                        && pg_sys::SPI_gettypeid(descriptor, number) == *oid
                })
        }
    }

    /// Closes it; the lock stays.
    ///
    /// # Safety
    /// `relation` is what `open` opened.
    pub unsafe fn close(relation: pg_sys::Relation) {
        // SAFETY: as the caller promises.
        unsafe { pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }

    /// 42P01, in the words that a statement's error has: nothing has the name.
    fn missing(&self) -> Error {
        let name = self.name.to_string_lossy();
        let message = format!("relation \"magic_link.{name}\" does not exist");
        Error::new(SqlState::UNDEFINED_TABLE, message)
    }

    /// 42809: a view has the name, or a table with other columns. Only a superuser can change what is the extension's.
    fn different(&self) -> Error {
        let name = self.name.to_string_lossy();
        let message = format!("magic_link.{name} is not the table that the extension created");
        Error::new(SqlState::WRONG_OBJECT_TYPE, message)
    }

    /// XX002. The row that an index led to has not the key that was looked for.
    pub fn index_is_corrupted(&self) -> Error {
        let name = self.name.to_string_lossy();
        let message =
            format!("an index of magic_link.{name} leads to a row that has not the index's key");
        Error::new(SqlState::INDEX_CORRUPTED, message)
            .hint("Run REINDEX TABLE on it, after bt_index_check() of the extension amcheck has said what is wrong.")
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::pg_sys::{TEXTOID, UUIDOID};
    use pgrx::prelude::*;

    use super::Table;
    use crate::postgres::error::{Error, SqlState};
    use crate::postgres::heap_row::Key;
    use crate::postgres::index_lookup::IndexLookup;
    use crate::postgres::scan::RowLock;
    use crate::postgres::test_tables::{ROLES, ROLES_OF, spi};

    fn is_refused(failure: Option<Error>, sqlstate: SqlState) -> bool {
        failure.is_some_and(|error| error.sqlstate == sqlstate)
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
        for (table, lookup, sqlstate) in [
            (&OTHER_TYPE, &BY_TYPE, wrong),
            (&OTHER_NAME, &BY_NAME, wrong),
            (&MISSING, &NOTHING, SqlState::UNDEFINED_TABLE),
        ] {
            let key = [Key::Text("acme")];
            assert!(is_refused(lookup.rows(&spi(), &key).err(), sqlstate));
            let locked = lookup.lock(&spi(), &key, RowLock::KeyShare).err();
            assert!(is_refused(locked, sqlstate));
            assert!(is_refused(table.has_triggers().err(), sqlstate));
        }
    }

    #[pg_test]
    fn a_view_in_the_tables_place_is_refused() {
        Spi::run(
            "ALTER TABLE magic_link.organization_jit_roles RENAME TO another;
             CREATE VIEW magic_link.organization_jit_roles AS TABLE magic_link.another",
        )
        .unwrap();
        let failure = ROLES_OF.rows(&spi(), &[Key::Text("acme")]).err();
        assert!(is_refused(failure, SqlState::WRONG_OBJECT_TYPE));
    }

    #[pg_test]
    fn triggers_and_rules_are_noticed_and_foreign_keys_are_not() {
        let noticed = || ROLES.has_triggers().unwrap();
        assert!(!noticed());
        Spi::run(
            "CREATE RULE twice AS ON INSERT TO magic_link.organization_jit_roles DO ALSO NOTIFY roles",
        )
        .unwrap();
        assert!(noticed());
        Spi::run(
            "DROP RULE twice ON magic_link.organization_jit_roles;
             CREATE FUNCTION pg_temp.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER pass BEFORE INSERT ON magic_link.organization_jit_roles FOR EACH ROW EXECUTE FUNCTION pg_temp.pass()",
        )
        .unwrap();
        assert!(noticed());
    }
}
