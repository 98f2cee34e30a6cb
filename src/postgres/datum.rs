//! Values as PostgreSQL holds them, and how long they live.

use std::ffi::CStr;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::{FromDatum, IntoDatum, pg_sys};
use uuid::Uuid;

use super::clock::Moment;
use super::error::{Error, SqlState};

/// The memory that PostgreSQL gives a call: what is in it lives as long as a borrow of this.
pub struct CallMemory(());

impl CallMemory {
    /// # Safety
    /// To be borrowed no longer than the call runs.
    pub unsafe fn of_call() -> Self {
        Self(())
    }
}

#[cfg(any(test, feature = "pg_test"))]
impl CallMemory {
    /// A test runs in one call, and keeps nothing beyond it.
    pub fn of_test() -> &'static Self {
        &Self(())
    }
}

/// A column of a row or a table: its name and its type.
pub type Column = (&'static CStr, pg_sys::Oid);

/// Types whose values are copies: nothing in them points into memory of PostgreSQL's, as a `&str` does.
pub trait Owned: FromDatum + IntoDatum + 'static {}

impl Owned for bool {}
impl Owned for i32 {}
impl Owned for i64 {}
impl Owned for String {}
impl Owned for Vec<Option<String>> {}
impl Owned for pgrx::Uuid {}
impl Owned for TimestampWithTimeZone {}
impl Owned for Moment {}

/// The characters of a text, 22021 where it is none: what a client asks for as it connects is converted and checked by nobody,
/// and current_setting() hands it on. pgrx would not look, and go on with a string that is none.
pub fn characters(text: &[u8]) -> Result<&str, Error> {
    str::from_utf8(text).map_err(|_| {
        // PostgreSQL's words, but without the bytes, which may be a token's.
        let message = "invalid byte sequence for encoding \"UTF8\"";
        Error::new(SqlState::CHARACTER_NOT_IN_REPERTOIRE, message)
    })
}

/// The same 16 bytes in pgrx's type.
pub fn pg_uuid(id: Uuid) -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(id.into_bytes())
}

pub fn from_pg_uuid(id: pgrx::Uuid) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}
