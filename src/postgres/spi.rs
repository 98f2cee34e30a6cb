//! Kept plans: every statement is planned once for a session and then only run.
//!
//! This is SPI by hand, and not pgrx's, which gives every writing statement a transaction id, even one
//! that finds no row, and has no plan that is made once for any values.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::thread::LocalKey;

use pgrx::{IntoDatum, pg_sys};
use serde::Serialize;

use crate::postgres::datum::{CallMemory, Jsonb, Owned};
use crate::postgres::error::{Error, SqlState, internal};
use crate::postgres::scan::{SnapshotMode, uses_transaction_snapshot};
use crate::postgres::settings;

/// A statement and the types of its parameters.
pub struct Statement {
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
            static $name: $crate::postgres::spi::Statement = const {
                $crate::postgres::spi::Statement::new($sql, &[$(::pgrx::pg_sys::$parameter),*])
            };
        )*}
    };
}
pub(crate) use statements;

impl Statement {
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
            settings::with_index_plans_only(|| make_generic_plan(kept.plan));
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
                return Err(internal("SPI_prepare_cursor"));
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

    fn execute(&self, mut parameters: Parameters, mode: SnapshotMode) -> Result<Done, Error> {
        if self.parameters != parameters.types {
            return Err(internal("parameters"));
        }
        let plan = self.plan()?;
        let values = parameters.values.as_mut_ptr();
        let nulls = parameters.nulls.as_ptr().cast();
        let latest = mode == SnapshotMode::Latest && uses_transaction_snapshot();
        // SAFETY: a kept plan, and as many values of its types as it has parameters; the snapshots
        // are used at once. To change what the transaction's own
        // snapshot does not see is 40001, as where PostgreSQL checks its foreign keys (ri_PerformCheck).
        let code = settings::without_custom_plans(|| unsafe {
            if !latest {
                return pg_sys::SPI_execute_plan(plan, values, nulls, false, 0);
            }
            let latest = pg_sys::GetLatestSnapshot();
            let own = pg_sys::GetTransactionSnapshot();
            pg_sys::SPI_execute_snapshot(plan, values, nulls, latest, own, false, true, 0)
        });
        if code < 0 {
            return Err(internal("SPI_execute_plan"));
        }
        // SAFETY: what the statement left, read at once; a backend has one thread.
        let (table, processed) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed) };
        Ok(Done { table, processed })
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
struct Done {
    /// Null where it answers no rows.
    table: *mut pg_sys::SPITupleTable,
    /// How many rows it answered, or changed.
    processed: u64,
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
        Self::default().and(value)
    }

    pub fn and<T: IntoDatum>(mut self, value: T) -> Self {
        let datum = value.into_datum();
        self.nulls.push(if datum.is_some() { b' ' } else { b'n' });
        self.values.push(datum.unwrap_or(pg_sys::Datum::null()));
        self.types.push(T::type_oid());
        self
    }
}

/// An open connection to SPI, made in the memory of a call; what its statements answer lives as long as
/// the connection.
pub struct Spi<'c> {
    call: PhantomData<&'c CallMemory>,
}

impl<'c> Spi<'c> {
    /// Runs `body` with a connection, which is closed before its answer goes anywhere: a datum made
    /// while it is open is in memory that goes with it.
    pub fn with<T>(
        memory: &'c CallMemory,
        body: impl FnOnce(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let spi = Self::connect(memory)?;
        body(&spi)
    }

    pub fn connect(_: &'c CallMemory) -> Result<Self, Error> {
        // SAFETY: called in a transaction, as every function is.
        if unsafe { pg_sys::SPI_connect() } != pg_sys::SPI_OK_CONNECT as c_int {
            return Err(internal("SPI_connect"));
        }
        Ok(Self { call: PhantomData })
    }

    /// What `value` is as JSON, in the memory of the call.
    pub fn to_jsonb(&self, value: &impl Serialize) -> Result<Jsonb<'c>, Error> {
        // SAFETY: the connection's memory is the current one, and what is made there is copied at once.
        let jsonb: Jsonb<'_> = unsafe { Jsonb::from_serialize(value) }?;
        Ok(self.outlived_by(jsonb))
    }

    /// A copy in the memory of the call.
    pub fn outlived_by(&self, jsonb: Jsonb) -> Jsonb<'c> {
        let datum = jsonb.into_datum().unwrap_or(pg_sys::Datum::null());
        // SAFETY: a jsonb, and a connection that was opened in memory of the call's: that is where
        // SPI_datumTransfer copies to.
        unsafe { Jsonb::from_datum(pg_sys::SPI_datumTransfer(datum, false, -1)) }
    }

    /// Runs a statement and answers its rows.
    pub fn run<'s>(
        &'s self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<impl Iterator<Item = Row<'s>>, Error> {
        Ok(self.rows(self.done(statement, parameters, SnapshotMode::Transaction)?))
    }

    /// Runs a statement that answers one row at most.
    pub fn row<'s>(
        &'s self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<Option<Row<'s>>, Error> {
        Ok(self.run(statement, parameters)?.next())
    }

    /// Runs a statement that answers one row at most, out of all that is committed.
    pub fn latest_row<'s>(
        &'s self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<Option<Row<'s>>, Error> {
        let done = self.done(statement, parameters, SnapshotMode::Latest)?;
        Ok(self.rows(done).next())
    }

    /// Runs a statement for what it does, and answers to how many rows.
    pub fn execute(
        &self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<u64, Error> {
        Ok(self
            .done(statement, parameters, SnapshotMode::Transaction)?
            .processed)
    }

    /// Runs a statement for what it does to all that is committed, and answers to how many rows.
    pub fn execute_on_latest(
        &self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<u64, Error> {
        Ok(self
            .done(statement, parameters, SnapshotMode::Latest)?
            .processed)
    }

    fn done(
        &self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
        mode: SnapshotMode,
    ) -> Result<Done, Error> {
        statement.with(|statement| statement.execute(parameters, mode))
    }

    fn rows(&self, done: Done) -> impl Iterator<Item = Row<'_>> {
        let Done { table, processed } = done;
        let count = if table.is_null() {
            0
        } else {
            processed as usize
        };
        let spi = PhantomData;
        (0..count).map(move |number| Row { table, number, spi })
    }
}

impl Drop for Spi<'_> {
    fn drop(&mut self) {
        // After an error of PostgreSQL's the end of the transaction closes all connections.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: the connection that `connect` opened, and no statement failed in it.
        unsafe { pg_sys::SPI_finish() };
    }
}

/// A row that a statement answered.
pub struct Row<'s> {
    table: *mut pg_sys::SPITupleTable,
    number: usize,
    spi: PhantomData<&'s Spi<'s>>,
}

impl Row<'_> {
    /// The value of a column, counted from 1; None where it is NULL, 42804 where it has another type: a
    /// superuser has put another view, or table, in the place of ours.
    pub fn get<T: Owned>(&self, column: c_int) -> Result<Option<T>, Error> {
        let mut is_null = false;
        // SAFETY: `number` is below the table's count; SPI answers NULL for a column that is not
        // there; the type is compared before the datum is read.
        let value = unsafe {
            let (tuple, descriptor) = (*(*self.table).vals.add(self.number), (*self.table).tupdesc);
            let datum = pg_sys::SPI_getbinval(tuple, descriptor, column, &mut is_null);
            let oid = pg_sys::SPI_gettypeid(descriptor, column);
            T::try_from_datum(datum, is_null, oid)
        };
        value.map_err(|_| {
            let message = "a column of magic_link's views or tables has another type than the extension gave it";
            Error::new(SqlState::DATATYPE_MISMATCH, message)
        })
    }

    /// The value of a column that cannot be NULL.
    pub fn required<T: Owned>(&self, column: c_int) -> Result<T, Error> {
        self.get(column)?.ok_or_else(|| internal("NULL"))
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::{Parameters, Spi};
    use crate::postgres::datum::CallMemory;

    statements! {
        ADD(INT4OID, INT4OID) = c"SELECT $1 OPERATOR(pg_catalog.+) $2, NULL::pg_catalog.text";
    }

    fn sum(spi: &Spi, a: i32, b: i32) -> i32 {
        let row = spi.row(&ADD, Parameters::of(a).and(b)).unwrap().unwrap();
        row.required(1).unwrap()
    }

    #[pg_test]
    fn a_plan_is_kept() {
        let first = Spi::connect(CallMemory::of_test()).unwrap();
        assert_eq!(sum(&first, 1, 2), 3);
        let plan = || ADD.with(|add| add.kept.get().unwrap().plan);
        let first_plan = plan();
        drop(first);
        assert_eq!(sum(&Spi::connect(CallMemory::of_test()).unwrap(), 2, 3), 5);
        assert_eq!(plan(), first_plan);
    }

    #[pg_test]
    fn values_of_other_types_are_refused() {
        let spi = Spi::connect(CallMemory::of_test()).unwrap();
        assert!(spi.row(&ADD, Parameters::of("1").and(2)).is_err());
        assert!(spi.row(&ADD, Parameters::of(1)).is_err());
        let row = spi.row(&ADD, Parameters::of(1).and(2)).unwrap().unwrap();
        assert!(row.get::<String>(1).is_err());
        assert!(row.required::<String>(2).is_err());
        assert_eq!(row.get::<String>(2).unwrap(), None);
    }
}
