//! Errors, told apart as a backend tells them apart: by SQLSTATE.

use std::fmt::Debug;

use postgres::Error;
use postgres::error::DbError;

/// What a test asks of a call that has to fail.
pub trait Refused {
    /// The error with which the server refused the call; any other code, or success, fails the test.
    fn refused(self, sqlstate: &str) -> DbError;
}

impl<T: Debug> Refused for Result<T, Error> {
    #[track_caller]
    fn refused(self, sqlstate: &str) -> DbError {
        let error = match self {
            Ok(answer) => panic!("expected {sqlstate}, and it succeeded: {answer:?}"),
            Err(error) => error,
        };
        let Some(db_error) = error.as_db_error() else {
            panic!("expected {sqlstate}, and the connection failed: {error:?}");
        };
        assert_eq!(db_error.code().code(), sqlstate, "{db_error:?}");
        db_error.clone()
    }
}
