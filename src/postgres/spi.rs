//! Connections to SPI, PostgreSQL's Server Programming Interface.
//!
//! SPI by hand and not pgrx's, which assigns a transaction id for every writing statement, even one that finds no row, and
//! has no generic plans.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::thread::LocalKey;

use pgrx::{IntoDatum, pg_sys};
use serde::Serialize;

use super::datum::{CallMemory, Owned};
use super::error::{Error, SqlState};
use super::jsonb::JsonbDatum;
use super::prepared_statement::{Parameters, PreparedStatement, StatementResult};
use super::scan::SnapshotMode;

/// As [`statements`](super::prepared_statement::statements) declares them.
pub type Statement = LocalKey<PreparedStatement>;

/// An open connection to SPI, made in the memory of a call; what its statements answer lives as long as
/// the connection.
pub struct SpiConnection<'c> {
    call: PhantomData<&'c CallMemory>,
}

impl<'c> SpiConnection<'c> {
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
            return Err(Error::internal("SPI_connect"));
        }
        Ok(Self { call: PhantomData })
    }

    /// What `value` is as JSON, in the memory of the call.
    pub fn to_jsonb(&self, value: &impl Serialize) -> Result<JsonbDatum<'c>, Error> {
        // SAFETY: the connection's memory is the current one, and what is made there is copied at once.
        let jsonb: JsonbDatum<'_> = unsafe { JsonbDatum::from_serialize(value) }?;
        Ok(self.outlived_by(jsonb))
    }

    /// A copy in the memory of the call.
    pub fn outlived_by(&self, jsonb: JsonbDatum) -> JsonbDatum<'c> {
        let datum = jsonb.into_datum().unwrap_or(pg_sys::Datum::null());
        // SAFETY: a jsonb, and a connection that was opened in memory of the call's: that is where
        // SPI_datumTransfer copies to.
        unsafe { JsonbDatum::from_datum(pg_sys::SPI_datumTransfer(datum, false, -1)) }
    }

    /// Runs a statement that answers one row at most.
    pub fn row(
        &self,
        statement: &'static Statement,
        parameters: Parameters,
    ) -> Result<Option<SpiRow<'_>>, Error> {
        Ok(self.first_row(execute(statement, parameters, SnapshotMode::Transaction)?))
    }

    /// The same, out of all that is committed.
    pub fn latest_row(
        &self,
        statement: &'static Statement,
        parameters: Parameters,
    ) -> Result<Option<SpiRow<'_>>, Error> {
        Ok(self.first_row(execute(statement, parameters, SnapshotMode::Latest)?))
    }

    /// Runs a statement for what it does, and answers to how many rows.
    pub fn execute(
        &self,
        statement: &'static Statement,
        parameters: Parameters,
    ) -> Result<u64, Error> {
        Ok(execute(statement, parameters, SnapshotMode::Transaction)?.processed)
    }

    /// The same, to all that is committed.
    pub fn execute_on_latest(
        &self,
        statement: &'static Statement,
        parameters: Parameters,
    ) -> Result<u64, Error> {
        Ok(execute(statement, parameters, SnapshotMode::Latest)?.processed)
    }

    fn first_row(&self, result: StatementResult) -> Option<SpiRow<'_>> {
        let StatementResult { table, processed } = result;
        (!table.is_null() && processed > 0).then_some(SpiRow {
            table,
            spi: PhantomData,
        })
    }
}

fn execute(
    statement: &'static Statement,
    parameters: Parameters,
    mode: SnapshotMode,
) -> Result<StatementResult, Error> {
    statement.with(|statement| statement.execute(parameters, mode))
}

impl Drop for SpiConnection<'_> {
    fn drop(&mut self) {
        // After an error of PostgreSQL's the end of the transaction closes all connections.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: the connection that `connect` opened, and no statement failed in it.
        unsafe { pg_sys::SPI_finish() };
    }
}

/// The first row that a statement answered.
pub struct SpiRow<'s> {
    /// Not null, and has a row.
    table: *mut pg_sys::SPITupleTable,
    spi: PhantomData<&'s SpiConnection<'s>>,
}

impl SpiRow<'_> {
    /// The value of a column, counted from 1; None where it is NULL, 42804 where it has another type: a
    /// superuser has put another view, or table, in the place of ours.
    pub fn get<T: Owned>(&self, column: c_int) -> Result<Option<T>, Error> {
        let mut is_null = false;
        // SAFETY: there is a first row; SPI answers NULL for a column that is not there; the type is compared
        // before the datum is read.
        let value = unsafe {
            let (tuple, descriptor) = (*(*self.table).vals, (*self.table).tupdesc);
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
        self.get(column)?.ok_or_else(|| Error::internal("NULL"))
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::SpiConnection;
    use crate::postgres::datum::CallMemory;
    use crate::postgres::prepared_statement::{Parameters, statements};

    statements! {
        ADD(INT4OID, INT4OID) = c"SELECT $1 OPERATOR(pg_catalog.+) $2, NULL::pg_catalog.text";
    }

    #[pg_test]
    fn values_of_other_types_are_refused() {
        let spi = SpiConnection::connect(CallMemory::of_test()).unwrap();
        assert!(spi.row(&ADD, Parameters::of("1").bind(2)).is_err());
        assert!(spi.row(&ADD, Parameters::of(1)).is_err());
        let row = spi.row(&ADD, Parameters::of(1).bind(2)).unwrap().unwrap();
        assert!(row.get::<String>(1).is_err());
        assert!(row.required::<String>(2).is_err());
        assert_eq!(row.get::<String>(2).unwrap(), None);
    }
}
