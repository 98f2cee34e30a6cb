//! Which index of a table serves a lookup, chosen once and kept until something of the table changes.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use pgrx::pg_sys;

use super::invalidation::{generation, watch};
use super::scan::Scan;
use super::table::Table;

/// The columns of a key, and the index that was chosen for them.
pub struct IndexChoice {
    table: &'static Table,
    /// The numbers of the table's columns, from 1.
    key: &'static [pg_sys::AttrNumber],
    /// Whether the key has one row at most.
    unique: bool,
    /// The index that was chosen, and the generation in which it was; 0 for never.
    oid: AtomicU32,
    check_xmin: AtomicU32,
    chosen_in: AtomicU64,
}

/// An index that finds every row with a key.
#[derive(Clone, Copy)]
pub struct ChosenIndex {
    /// 0 where there is none.
    oid: pg_sys::Oid,
    /// Where PostgreSQL set indcheckxmin, the transaction that made the index's row in pg_index: whose snapshot is
    /// older may not use it (get_relation_info does the same). Else 0.
    check_xmin: pg_sys::TransactionId,
}

impl ChosenIndex {
    const NONE: Self = Self {
        oid: pg_sys::InvalidOid,
        check_xmin: pg_sys::TransactionId::INVALID,
    };

    fn exists(self) -> bool {
        self.oid != pg_sys::InvalidOid
    }

    fn any_snapshot_may_use_it(self) -> bool {
        self.check_xmin == pg_sys::TransactionId::INVALID
    }

    /// The index, which is locked, if the active snapshot is not too old for it; else 0, and it is unlocked.
    ///
    /// # Safety
    /// A snapshot is active, and has set TransactionXmin.
    pub unsafe fn for_active_snapshot(self) -> pg_sys::Oid {
        // SAFETY: as the caller promises.
        unsafe {
            if self.any_snapshot_may_use_it()
                || pg_sys::TransactionIdPrecedes(self.check_xmin, pg_sys::TransactionXmin)
            {
                return self.oid;
            }
            Scan::unlock_index(self.oid);
        }
        pg_sys::InvalidOid
    }
}

impl IndexChoice {
    pub const fn new(
        table: &'static Table,
        key: &'static [pg_sys::AttrNumber],
        unique: bool,
    ) -> Self {
        Self {
            table,
            key,
            unique,
            oid: AtomicU32::new(0),
            check_xmin: AtomicU32::new(0),
            chosen_in: AtomicU64::new(0),
        }
    }

    /// Locks the index that serves, if there is one. An index can be locked by itself (ALTER INDEX SET TABLESPACE,
    /// REINDEX INDEX), and what is committed while that is waited for is to be seen. It does not go away while the
    /// table is locked: DROP INDEX waits for the table's lock, and CONCURRENTLY for those who have it.
    ///
    /// # Safety
    /// `relation` is the table, open and locked.
    pub unsafe fn lock(&self, relation: pg_sys::Relation) -> ChosenIndex {
        loop {
            // SAFETY: as the caller promises.
            unsafe {
                let index = self.chosen(relation);
                if !index.exists() {
                    return index;
                }
                Scan::lock_index(index.oid);
                if self.chosen_in.load(Relaxed) == generation() {
                    return index;
                }
                // Something was changed while we waited: choose again.
                Scan::unlock_index(index.oid);
            }
        }
    }

    /// Chosen again only where something of the table has changed.
    unsafe fn chosen(&self, relation: pg_sys::Relation) -> ChosenIndex {
        let generation = generation();
        if self.chosen_in.load(Relaxed) == generation {
            return ChosenIndex {
                oid: self.oid.load(Relaxed).into(),
                check_xmin: self.check_xmin.load(Relaxed).into(),
            };
        }
        // SAFETY: an open table.
        let index = unsafe { self.choose(relation) };
        watch(index.oid);
        self.oid.store(index.oid.to_u32(), Relaxed);
        self.check_xmin
            .store(index.check_xmin.into_inner(), Relaxed);
        self.chosen_in.store(generation, Relaxed);
        index
    }

    /// The best index in the table's own list: one that any snapshot may use before one that may have to
    /// be passed over.
    unsafe fn choose(&self, relation: pg_sys::Relation) -> ChosenIndex {
        let mut best = ChosenIndex::NONE;
        // SAFETY: an open table; a list of oids, null where it is empty.
        unsafe {
            let list = pg_sys::RelationGetIndexList(relation);
            let length = if list.is_null() { 0 } else { (*list).length };
            for n in 0..length as usize {
                let oid = (*(*list).elements.add(n)).oid_value;
                if let Some(index) = self.examine(oid)
                    && (!best.exists()
                        || !best.any_snapshot_may_use_it() && index.any_snapshot_may_use_it())
                {
                    best = index;
                }
            }
            pg_sys::list_free(list);
        }
        best
    }

    /// None where the index does not find every row with a key, by the order of bytes.
    unsafe fn examine(&self, oid: pg_sys::Oid) -> Option<ChosenIndex> {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: an index of an open table, with a row in pg_index.
        unsafe {
            let relation = pg_sys::index_open(oid, mode);
            let index = self.serves(relation).then(|| ChosenIndex {
                oid,
                check_xmin: if (*(*relation).rd_index).indcheckxmin {
                    xmin_of((*relation).rd_indextuple)
                } else {
                    pg_sys::TransactionId::INVALID
                },
            });
            pg_sys::index_close(relation, mode);
            index
        }
    }

    unsafe fn serves(&self, relation: pg_sys::Relation) -> bool {
        // SAFETY: an open index has of each column a number, an operator family and a collation. heap_attisnull
        // needs the descriptor, here null, only for columns that the tuple lacks.
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

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use pgrx::prelude::*;

    use crate::postgres::index_lookup::IndexLookup;
    use crate::postgres::test_tables::{ROLE, ROLES_OF, default_roles, fill, has_role};

    fn index_of(lookup: &IndexLookup) -> u32 {
        lookup.index.oid.load(Relaxed)
    }

    #[pg_test]
    fn an_index_is_known_by_what_it_is_and_not_by_its_name() {
        fill();
        assert_eq!(default_roles("globex"), ["b"]);
        let index = index_of(&ROLES_OF);
        assert_ne!(index, 0);
        Spi::run("ALTER INDEX magic_link.organization_jit_roles_pkey RENAME TO another").unwrap();
        assert_eq!(default_roles("globex"), ["b"]);
        assert_eq!(index_of(&ROLES_OF), index);
    }

    #[pg_test]
    fn an_index_that_does_not_find_every_row_is_not_asked() {
        fill();
        Spi::run("ALTER TABLE magic_link.organization_jit_roles DROP CONSTRAINT organization_jit_roles_pkey").unwrap();
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
            Spi::run(&format!(
                "CREATE {unique} INDEX organization_jit_roles_pkey ON magic_link.organization_jit_roles {definition}"
            ))
            .unwrap();
            assert_eq!(default_roles("globex"), ["b"], "{definition}");
            assert!(has_role("globex", "b"), "{definition}");
            let asked = [&ROLES_OF, &ROLE].map(|lookup| index_of(lookup) != 0);
            assert_eq!(asked, serves, "{unique} {definition}");
            Spi::run("DROP INDEX magic_link.organization_jit_roles_pkey").unwrap();
        }
    }
}
