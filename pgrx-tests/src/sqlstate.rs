//! Assertions about the SQLSTATE of an error.

use std::fmt::Debug;

use postgres::Error;
use postgres::error::DbError;

/// For a call that has to fail.
pub trait ExpectSqlState {
    /// The error that the server raised. Any other SQLSTATE, or success, fails the test.
    fn expect_sqlstate(self, sqlstate: &str) -> DbError;
}

impl<T: Debug> ExpectSqlState for Result<T, Error> {
    #[track_caller]
    fn expect_sqlstate(self, sqlstate: &str) -> DbError {
        let error = match self {
            Ok(answer) => panic!("expected {sqlstate}, but the call succeeded: {answer:?}"),
            Err(error) => error,
        };
        let Some(db_error) = error.as_db_error() else {
            panic!("expected {sqlstate}, but the error is not the server's: {error:?}");
        };
        assert_eq!(db_error.code().code(), sqlstate, "{db_error:?}");
        db_error.clone()
    }
}
