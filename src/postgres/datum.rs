//! Values as PostgreSQL holds them, and how long they live.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::fcinfo::{direct_function_call, direct_function_call_as_datum};
use pgrx::{FromDatum, IntoDatum, pg_sys};
use serde::Serialize;
use uuid::Uuid;

use crate::postgres::clock::Moment;
use crate::postgres::error::{Error, SqlState, internal};

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

/// A jsonb value, kept as PostgreSQL holds it, so that it is handed back whole: numbers and depths
/// that a parser of ours would not take included. It lives as long as the memory that it points into.
#[derive(Clone, Copy)]
pub struct Jsonb<'m> {
    datum: pg_sys::Datum,
    memory: PhantomData<&'m CallMemory>,
}

impl<'m> Jsonb<'m> {
    /// # Safety
    /// The datum is a jsonb, toasted or not, in memory that lives as long as `'m`.
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Self {
        Self {
            datum,
            memory: PhantomData,
        }
    }

    /// `{}`. To be asked for where no connection to SPI is open: that has memory of its own.
    pub fn empty(_: &'m CallMemory) -> Result<Self, Error> {
        // SAFETY: the memory of the call is the current one.
        unsafe { Self::parse(c"{}") }
    }

    /// What `value` is as JSON.
    ///
    /// # Safety
    /// The current memory lives as long as `'m`.
    pub unsafe fn from_serialize(value: &impl Serialize) -> Result<Self, Error> {
        let json = serde_json::to_vec(value).map_err(|_| internal("to JSON"))?;
        let json = CString::new(json).map_err(|_| internal("to JSON"))?;
        // SAFETY: as the caller promises.
        unsafe { Self::parse(&json) }
    }

    /// # Safety
    /// As above.
    unsafe fn parse(json: &CStr) -> Result<Self, Error> {
        // SAFETY: jsonb_in takes a cstring and answers a jsonb, in the current memory.
        unsafe {
            direct_function_call_as_datum(pg_sys::jsonb_in, &[json.into_datum()])
                .map(|datum| Self::from_datum(datum))
                .ok_or_else(|| internal("jsonb_in"))
        }
    }

    /// Reads the text form, which is in PostgreSQL's memory: Rust's would end the session where a caller's
    /// value is too large for it. A value of 16 KiB can have a text of megabytes (1e100000), so look at its
    /// length first. It goes no further than `read`, since the current memory may be a connection's.
    pub fn read_text<T>(self, read: impl FnOnce(&str) -> T) -> Result<T, Error> {
        // SAFETY: jsonb_out takes a jsonb, toasted or not, and answers a cstring in the current memory.
        let text: Option<&CStr> =
            unsafe { direct_function_call(pg_sys::jsonb_out, &[Some(self.datum)]) };
        let text = text.ok_or_else(|| internal("jsonb_out"))?;
        characters(text.to_bytes()).map(read)
    }
}

impl IntoDatum for Jsonb<'_> {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.datum)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}
