//! Statements that are planned once for a session and then only run.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use pgrx::{IntoDatum, pg_sys};

use super::error::Error;
use super::scan::{SnapshotMode, uses_transaction_snapshot};
use super::{local_settings, memory_reserve};

/// A statement and the types of its parameters.
pub struct PreparedStatement {
    sql: &'static CStr,
    parameters: &'static [pg_sys::Oid],
    kept: Cell<Option<Kept>>,
}

/// What is kept of a statement for the session.
#[derive(Clone, Copy)]
struct Kept {
    plan: pg_sys::SPIPlanPtr,
    /// Part of the plan, and lives as long.
    source: *mut pg_sys::CachedPlanSource,
    /// Which of the source's plans was made by us.
    generation: c_int,
}

/// Declares statements: `NAME(type, …) = c"SQL"`.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident($($parameter:ident),*) = $sql:literal;)*) => {
        ::std::thread_local! {$(
            $(#[$doc])*
            static $name: $crate::postgres::prepared_statement::PreparedStatement = const {
                $crate::postgres::prepared_statement::PreparedStatement::new($sql, &[$(::pgrx::pg_sys::$parameter),*])
            };
        )*}
    };
}
pub(crate) use statements;

impl PreparedStatement {
    pub const fn new(sql: &'static CStr, parameters: &'static [pg_sys::Oid]) -> Self {
        Self {
            sql,
            parameters,
            kept: Cell::new(None),
        }
    }

    /// The plan, made at the first use in a session and kept until its end, or until a table has changed.
    /// A generic plan: there is one best way to a row by its key, and choosing it again at every call
    /// would cost a tenth of a redemption. PostgreSQL does not choose again when a table has grown, so a plan
    /// that was made while it was small has to be one by its indexes.
    fn plan(&self) -> Result<pg_sys::SPIPlanPtr, Error> {
        let mut kept = match self.kept.get() {
            Some(kept) => kept,
            None => self.prepare()?,
        };
        // A plan that PostgreSQL made itself, since a table was changed while it waited for the lock on it, was
        // not made with our planner settings.
        // SAFETY: a source that is kept, read as CheckCachedPlan does; a plan that is marked, as
        // PlanCacheRelCallback does, is kept by whoever runs it.
        let is_planned = unsafe {
            let (source, generic) = (&*kept.source, (*kept.source).gplan);
            if !generic.is_null() && source.generation != kept.generation {
                (*generic).is_valid = false;
            }
            source.is_valid && !generic.is_null() && (*generic).is_valid && {
                // A plan that passed over an index that is too new for its snapshot (indcheckxmin).
                let xmin = (*generic).saved_xmin;
                xmin == pg_sys::TransactionId::INVALID || xmin == pg_sys::TransactionXmin
            }
        };
        if !is_planned {
            local_settings::with_index_plans_only(|| make_generic_plan(kept.plan));
            // SAFETY: as above.
            kept.generation = unsafe { (*kept.source).generation };
            self.kept.set(Some(kept));
        }
        Ok(kept.plan)
    }

    fn prepare(&self) -> Result<Kept, Error> {
        let sql = self.sql.as_ptr();
        let types = self.parameters.as_ptr().cast_mut();
        let count = self.parameters.len() as c_int;
        // SAFETY: the text and the types are static and only read.
        let options = pg_sys::CURSOR_OPT_GENERIC_PLAN as c_int;
        let plan = unsafe { pg_sys::SPI_prepare_cursor(sql, count, types, options) };
        // SAFETY: a plan just prepared in the open SPI connection, or null, which is refused. It is one
        // statement, and so has one source.
        unsafe {
            if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                return Err(Error::internal("SPI_prepare_cursor"));
            }
            let sources = pg_sys::SPI_plan_get_plan_sources(plan);
            let kept = Kept {
                plan,
                source: (*(*sources).elements).ptr_value.cast(),
                generation: 0,
            };
            self.kept.set(Some(kept));
            Ok(kept)
        }
    }

    pub(super) fn execute(
        &self,
        mut parameters: Parameters,
        mode: SnapshotMode,
    ) -> Result<StatementResult, Error> {
        // A trigger that the last one fired may have used it up.
        memory_reserve::set_aside();
        if self.parameters != parameters.types {
            return Err(Error::internal("parameters"));
        }
        let plan = self.plan()?;
        let values = parameters.values.as_mut_ptr();
        let nulls = parameters.nulls.as_ptr().cast();
        let latest = mode == SnapshotMode::Latest && uses_transaction_snapshot();
        // SAFETY: a kept plan, and as many values of its types as it has parameters; the snapshots
        // are used at once. To change what the transaction's own
        // snapshot does not see is 40001, as where PostgreSQL checks its foreign keys (ri_PerformCheck).
        let code = local_settings::without_custom_plans(|| unsafe {
            if !latest {
                return pg_sys::SPI_execute_plan(plan, values, nulls, false, 0);
            }
            let latest = pg_sys::GetLatestSnapshot();
            let own = pg_sys::GetTransactionSnapshot();
            pg_sys::SPI_execute_snapshot(plan, values, nulls, latest, own, false, true, 0)
        });
        if code < 0 {
            return Err(Error::internal("SPI_execute_plan"));
        }
        // SAFETY: what the statement left, read at once; a backend has one thread.
        let (table, processed) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed) };
        Ok(StatementResult { table, processed })
    }
}

/// Without values for its parameters PostgreSQL makes a plan for any, whatever `plan_cache_mode` is.
fn make_generic_plan(plan: pg_sys::SPIPlanPtr) {
    // SAFETY: a kept plan of one statement; what is released is what was got, and stays the source's.
    unsafe {
        let made = pg_sys::SPI_plan_get_cached_plan(plan);
        if !made.is_null() {
            pg_sys::ReleaseCachedPlan(made, pg_sys::CurrentResourceOwner);
        }
    }
}

/// What running a statement left.
pub(super) struct StatementResult {
    /// Null where it answers no rows.
    pub table: *mut pg_sys::SPITupleTable,
    /// How many rows it answered, or changed.
    pub processed: u64,
}

/// The values for a statement's parameters, in order.
#[derive(Default)]
pub struct Parameters {
    values: Vec<pg_sys::Datum>,
    /// As SPI wants it: a blank, or `n` for NULL.
    nulls: Vec<u8>,
    types: Vec<pg_sys::Oid>,
}

impl Parameters {
    pub fn of<T: IntoDatum>(value: T) -> Self {
        Self::default().bind(value)
    }

    pub fn bind<T: IntoDatum>(mut self, value: T) -> Self {
        let datum = value.into_datum();
        self.nulls.push(if datum.is_some() { b' ' } else { b'n' });
        self.values.push(datum.unwrap_or(pg_sys::Datum::null()));
        self.types.push(T::type_oid());
        self
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::Parameters;
    use crate::postgres::datum::CallMemory;
    use crate::postgres::spi::SpiConnection;

    statements! {
        ADD(INT4OID, INT4OID) = c"SELECT $1 OPERATOR(pg_catalog.+) $2";
    }

    #[pg_test]
    fn a_plan_is_kept() {
        let sum = |a: i32, b: i32| {
            let spi = SpiConnection::connect(CallMemory::of_test()).unwrap();
            let row = spi.row(&ADD, Parameters::of(a).bind(b)).unwrap().unwrap();
            row.required::<i32>(1).unwrap()
        };
        let plan = || ADD.with(|add| add.kept.get().unwrap().plan);
        assert_eq!(sum(1, 2), 3);
        let first_plan = plan();
        assert_eq!(sum(2, 3), 5);
        assert_eq!(plan(), first_plan);
    }
}
