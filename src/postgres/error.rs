//! Errors of ours, as values.

use std::ffi::c_int;

/// An error of ours, with everything that a client may see of it.
#[derive(Debug)]
pub struct Error {
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// Five characters, as PostgreSQL packs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlState(c_int);

impl SqlState {
    // Under PostgreSQL's names.
    pub const NO_DATA: Self = Self::new("02000");
    pub const NULL_VALUE_NOT_ALLOWED: Self = Self::new("22004");
    pub const DATETIME_FIELD_OVERFLOW: Self = Self::new("22008");
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self::new("22021");
    pub const INVALID_PARAMETER_VALUE: Self = Self::new("22023");
    pub const FOREIGN_KEY_VIOLATION: Self = Self::new("23503");
    pub const TRIGGERED_DATA_CHANGE_VIOLATION: Self = Self::new("27000");
    pub const SERIALIZATION_FAILURE: Self = Self::new("40001");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self::new("42501");
    pub const DATATYPE_MISMATCH: Self = Self::new("42804");
    pub const INVALID_FUNCTION_DEFINITION: Self = Self::new("42P13");
    pub const WRONG_OBJECT_TYPE: Self = Self::new("42809");
    pub const UNDEFINED_TABLE: Self = Self::new("42P01");
    pub const OUT_OF_MEMORY: Self = Self::new("53200");
    pub const IO_ERROR: Self = Self::new("58030");
    pub const INTERNAL_ERROR: Self = Self::new("XX000");
    pub const DATA_CORRUPTED: Self = Self::new("XX001");
    pub const INDEX_CORRUPTED: Self = Self::new("XX002");

    pub const fn from_code(code: c_int) -> Self {
        Self(code)
    }

    pub const fn code(self) -> c_int {
        self.0
    }

    /// PostgreSQL's MAKE_SQLSTATE: six bits a character, the first one lowest.
    pub const fn new(code: &str) -> Self {
        let code = code.as_bytes();
        let mut packed = 0;
        let mut n = code.len();
        while n > 0 {
            n -= 1;
            packed = packed << 6 | (code[n].wrapping_sub(b'0') & 0x3F) as c_int;
        }
        Self(packed)
    }
}

impl Error {
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self {
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    pub fn detail(mut self, detail: impl ToString) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    pub fn hint(mut self, hint: impl ToString) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// 22004: an argument is NULL that may not be.
    pub fn null_argument(argument: &str) -> Self {
        Self::new(
            SqlState::NULL_VALUE_NOT_ALLOWED,
            format!("{argument} must not be null"),
        )
    }

    /// 22023: an argument is not what it should be; `why` is a sentence that says what is wrong.
    pub fn invalid(what: &str, why: impl ToString) -> Self {
        Self::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid {what}")).detail(why)
    }

    /// 27000: a row of ours that a trigger keeps from being written.
    pub fn row_suppressed(table: &str) -> Self {
        Self::new(
            SqlState::TRIGGERED_DATA_CHANGE_VIOLATION,
            format!("a row of magic_link.{table} could not be written"),
        )
        .hint("A trigger on the table may suppress it.")
    }

    /// 40001, in the words that ExecLockRows has for a row that was changed or deleted.
    pub fn concurrent_update() -> Self {
        Self::new(
            SqlState::SERIALIZATION_FAILURE,
            "could not serialize access due to concurrent update",
        )
    }

    /// XX000: a defect of the extension, which no input can cause.
    pub fn internal(what: &str) -> Self {
        let message = format!("internal error in magic_link: {what}");
        Self::new(SqlState::INTERNAL_ERROR, message)
    }
}

#[cfg(test)]
mod tests {
    use pgrx::PgSqlErrorCode;

    use super::*;

    #[test]
    fn a_sqlstate_is_packed_as_postgresql_packs_it() {
        let of_pgrx = [
            ("22004", PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED),
            ("23503", PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION),
            ("XX000", PgSqlErrorCode::ERRCODE_INTERNAL_ERROR),
        ];
        for (code, packed) in of_pgrx {
            assert_eq!(SqlState::new(code), SqlState::from_code(packed as c_int));
        }
    }
}
