//! Kept plans: every statement is planned once for a session and then only run.
//!
//! This is SPI by hand, and not pgrx's, because pgrx rewrites the errors that pass through it (see
//! `raise`) and gives every writing statement a transaction id, even one that finds no row.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::marker::PhantomData;
use std::thread::LocalKey;

use pgrx::{FromDatum, IntoDatum, pg_sys};

use crate::raise::{Failure, catch, internal};

/// Calls of PostgreSQL's without pgrx's guard: `catch` stands around them.
mod unguarded {
    use super::{c_char, c_int, c_long, pg_sys};

    unsafe extern "C-unwind" {
        pub fn SPI_prepare_cursor(
            src: *const c_char,
            nargs: c_int,
            argtypes: *mut pg_sys::Oid,
            cursor_options: c_int,
        ) -> pg_sys::SPIPlanPtr;
        pub fn SPI_execute_plan(
            plan: pg_sys::SPIPlanPtr,
            values: *mut pg_sys::Datum,
            nulls: *const c_char,
            read_only: bool,
            tcount: c_long,
        ) -> c_int;
        pub fn SPI_execute_snapshot(
            plan: pg_sys::SPIPlanPtr,
            values: *mut pg_sys::Datum,
            nulls: *const c_char,
            snapshot: pg_sys::Snapshot,
            crosscheck_snapshot: pg_sys::Snapshot,
            read_only: bool,
            fire_triggers: bool,
            tcount: c_long,
        ) -> c_int;
        pub fn GetLatestSnapshot() -> pg_sys::Snapshot;
        pub fn GetTransactionSnapshot() -> pg_sys::Snapshot;
    }
}

/// A statement and the types of its parameters.
pub struct Statement {
    sql: &'static CStr,
    parameters: &'static [pg_sys::Oid],
    plan: Cell<pg_sys::SPIPlanPtr>,
}

/// Declares statements: `NAME(type, …) = c"SQL"`.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident($($parameter:ident),*) = $sql:literal;)*) => {
        ::std::thread_local! {$(
            $(#[$doc])*
            static $name: $crate::statements::Statement = const {
                $crate::statements::Statement::new($sql, &[$(::pgrx::pg_sys::$parameter),*])
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
            plan: Cell::new(std::ptr::null_mut()),
        }
    }

    /// The plan, made at the first use in a session and kept until its end; PostgreSQL itself plans
    /// it anew when a table has changed. A generic plan: there is one best way to a row by its key,
    /// and choosing it again at every call would cost a tenth of a redemption.
    fn plan(&self) -> Result<pg_sys::SPIPlanPtr, Failure> {
        if !self.plan.get().is_null() {
            return Ok(self.plan.get());
        }
        let sql = self.sql.as_ptr();
        let types = self.parameters.as_ptr().cast_mut();
        let count = self.parameters.len() as c_int;
        // SAFETY: the text and the types are static and only read; the closure holds pointers.
        let plan = unsafe {
            catch(|| {
                unguarded::SPI_prepare_cursor(
                    sql,
                    count,
                    types,
                    pg_sys::CURSOR_OPT_GENERIC_PLAN as c_int,
                )
            })
        }?;
        // SAFETY: a plan just prepared in the open SPI connection, or null, which is refused.
        if plan.is_null() || unsafe { pg_sys::SPI_keepplan(plan) } != 0 {
            return Err(internal("SPI_prepare_cursor"));
        }
        self.plan.set(plan);
        Ok(plan)
    }

    fn execute(&self, mut parameters: Parameters, sight: Sight) -> Result<Done, Failure> {
        if self.parameters != parameters.types {
            return Err(internal("parameters"));
        }
        let plan = self.plan()?;
        let values = parameters.values.as_mut_ptr();
        let nulls = parameters.nulls.as_ptr().cast();
        // SAFETY: the isolation level of the transaction that we are in.
        let one_snapshot = unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as c_int };
        // SAFETY: a kept plan, and as many values of its types as it has parameters; the closure
        // holds pointers, and the snapshots are used at once.
        let code = with_generic_plans(|| unsafe {
            catch(|| match sight {
                Sight::Latest if one_snapshot => {
                    let latest = unguarded::GetLatestSnapshot();
                    let own = unguarded::GetTransactionSnapshot();
                    unguarded::SPI_execute_snapshot(
                        plan, values, nulls, latest, own, false, true, 0,
                    )
                }
                _ => unguarded::SPI_execute_plan(plan, values, nulls, false, 0),
            })
        })?;
        if code < 0 {
            return Err(internal("SPI_execute_plan"));
        }
        // SAFETY: what the statement left, read at once; a backend has one thread.
        let (table, processed) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed) };
        Ok(Done { table, processed })
    }
}

/// Runs `body`, which does not panic, as if the caller had not set `plan_cache_mode`. A custom plan has the
/// parameters in it, and so a token's hash in the log of who has plans logged; and each call would make one.
fn with_generic_plans<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: the variable behind the setting, put back before anybody else reads it; a backend has one thread.
    unsafe {
        let mode = pg_sys::plan_cache_mode;
        pg_sys::plan_cache_mode = pg_sys::PlanCacheMode::PLAN_CACHE_MODE_AUTO as c_int;
        let answer = body();
        pg_sys::plan_cache_mode = mode;
        answer
    }
}

/// What a statement sees, beside what its transaction did.
#[derive(Clone, Copy)]
enum Sight {
    /// All that is committed; from REPEATABLE READ on, all that was at the transaction's start.
    Transaction,
    /// All that is committed, whatever the isolation level; to change what the transaction should not
    /// see is 40001. It is how PostgreSQL checks its foreign keys.
    Latest,
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

/// An open connection to SPI; what its statements answer lives as long.
pub struct Spi {
    /// After an error SPI may be open further down: the end of the transaction closes it all.
    failed: Cell<bool>,
}

impl Spi {
    /// Runs `body` with a connection, which is closed before its answer goes anywhere: a datum made
    /// while it is open is in memory that goes with it.
    pub fn with<T>(body: impl FnOnce(&Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let spi = Self::connect()?;
        body(&spi)
    }

    pub fn connect() -> Result<Self, Failure> {
        // SAFETY: called in a transaction, as every function is.
        if unsafe { pg_sys::SPI_connect() } != pg_sys::SPI_OK_CONNECT as c_int {
            return Err(internal("SPI_connect"));
        }
        Ok(Self {
            failed: Cell::new(false),
        })
    }

    /// Runs a statement and answers its rows.
    pub fn run<'s>(
        &'s self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<impl Iterator<Item = Row<'s>>, Failure> {
        Ok(self.rows(self.done(statement, parameters, Sight::Transaction)?))
    }

    /// Runs a statement that answers one row at most.
    pub fn row<'s>(
        &'s self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<Option<Row<'s>>, Failure> {
        Ok(self.run(statement, parameters)?.next())
    }

    /// Runs a statement that answers one row at most, out of all that is committed.
    pub fn latest_row<'s>(
        &'s self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<Option<Row<'s>>, Failure> {
        let done = self.done(statement, parameters, Sight::Latest)?;
        Ok(self.rows(done).next())
    }

    /// Runs a statement for what it does, and answers to how many rows.
    pub fn execute(
        &self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<u64, Failure> {
        Ok(self
            .done(statement, parameters, Sight::Transaction)?
            .processed)
    }

    /// Runs a statement for what it does to all that is committed, and answers to how many rows.
    pub fn execute_on_latest(
        &self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
    ) -> Result<u64, Failure> {
        Ok(self.done(statement, parameters, Sight::Latest)?.processed)
    }

    fn done(
        &self,
        statement: &'static LocalKey<Statement>,
        parameters: Parameters,
        sight: Sight,
    ) -> Result<Done, Failure> {
        let done = statement.with(|statement| statement.execute(parameters, sight));
        self.failed.set(matches!(done, Err(Failure::Postgres(_))));
        done
    }

    /// Runs one call into PostgreSQL, as [`raise::catch`](crate::raise::catch) does and on its conditions.
    pub unsafe fn catch<T>(&self, call: impl FnOnce() -> T) -> Result<T, Failure> {
        // SAFETY: as the caller promises.
        let answer = unsafe { catch(call) };
        self.failed.set(answer.is_err());
        answer
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

impl Drop for Spi {
    fn drop(&mut self) {
        if self.failed.get() || std::thread::panicking() {
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
    spi: PhantomData<&'s Spi>,
}

impl Row<'_> {
    /// The value of a column, counted from 1; None where it is NULL.
    pub fn get<T: FromDatum + IntoDatum + 'static>(
        &self,
        column: c_int,
    ) -> Result<Option<T>, Failure> {
        let mut is_null = false;
        // SAFETY: `number` is below the table's count; SPI answers NULL for a column that is not
        // there; the type is compared before the datum is read.
        let value = unsafe {
            let (tuple, descriptor) = (*(*self.table).vals.add(self.number), (*self.table).tupdesc);
            let datum = pg_sys::SPI_getbinval(tuple, descriptor, column, &mut is_null);
            let oid = pg_sys::SPI_gettypeid(descriptor, column);
            T::try_from_datum(datum, is_null, oid)
        };
        value.map_err(|_| internal("SPI_getbinval"))
    }

    /// The value of a column that cannot be NULL.
    pub fn required<T: FromDatum + IntoDatum + 'static>(
        &self,
        column: c_int,
    ) -> Result<T, Failure> {
        self.get(column)?.ok_or_else(|| internal("NULL"))
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::{Parameters, Spi};

    statements! {
        ADD(INT4OID, INT4OID) = c"SELECT $1 OPERATOR(pg_catalog.+) $2, NULL::pg_catalog.text";
    }

    fn sum(spi: &Spi, a: i32, b: i32) -> i32 {
        let row = spi.row(&ADD, Parameters::of(a).and(b)).unwrap().unwrap();
        row.required(1).unwrap()
    }

    #[pg_test]
    fn a_plan_is_kept() {
        let first = Spi::connect().unwrap();
        assert_eq!(sum(&first, 1, 2), 3);
        let plan = ADD.with(|add| add.plan.get());
        drop(first);
        assert_eq!(sum(&Spi::connect().unwrap(), 2, 3), 5);
        assert_eq!(ADD.with(|add| add.plan.get()), plan);
    }

    #[pg_test]
    fn values_of_other_types_are_refused() {
        let spi = Spi::connect().unwrap();
        assert!(spi.row(&ADD, Parameters::of("1").and(2)).is_err());
        assert!(spi.row(&ADD, Parameters::of(1)).is_err());
        let row = spi.row(&ADD, Parameters::of(1).and(2)).unwrap().unwrap();
        assert!(row.get::<String>(1).is_err());
        assert!(row.required::<String>(2).is_err());
        assert_eq!(row.get::<String>(2).unwrap(), None);
    }
}
