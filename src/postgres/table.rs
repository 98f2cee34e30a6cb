//! A table of ours, opened by its name: the lock comes first, and behind it the name is looked up again.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use pgrx::pg_sys;

use crate::postgres::datum::Column;
use crate::postgres::error::{Error, SqlState};
use crate::postgres::invalidation::{generation, watch};

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
    /// To be called inside `catch`, with an open relation.
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
    /// To be called inside `catch`, with what `open` opened.
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
