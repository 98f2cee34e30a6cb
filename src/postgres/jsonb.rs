//! jsonb values, kept as PostgreSQL holds them.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;

use pgrx::fcinfo::{direct_function_call, direct_function_call_as_datum};
use pgrx::{IntoDatum, pg_sys};
use serde::Serialize;

use super::datum::{CallMemory, characters};
use super::error::Error;

/// A jsonb value, kept as PostgreSQL holds it, so that it is handed back whole: numbers and depths
/// that a parser of ours would not take included. It lives as long as the memory that it points into.
#[derive(Clone, Copy)]
pub struct JsonbDatum<'m> {
    datum: pg_sys::Datum,
    memory: PhantomData<&'m CallMemory>,
}

impl<'m> JsonbDatum<'m> {
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
        let json = serde_json::to_vec(value).map_err(|_| Error::internal("to JSON"))?;
        let json = CString::new(json).map_err(|_| Error::internal("to JSON"))?;
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
                .ok_or_else(|| Error::internal("jsonb_in"))
        }
    }

    /// Reads the text form, which is in PostgreSQL's memory: Rust's would end the session where a caller's
    /// value is too large for it. A value of 16 KiB can have a text of megabytes (1e100000), so look at its
    /// length first. It goes no further than `read`, since the current memory may be a connection's.
    pub fn read_text<T>(self, read: impl FnOnce(&str) -> T) -> Result<T, Error> {
        // SAFETY: jsonb_out takes a jsonb, toasted or not, and answers a cstring in the current memory.
        let text: Option<&CStr> =
            unsafe { direct_function_call(pg_sys::jsonb_out, &[Some(self.datum)]) };
        let text = text.ok_or_else(|| Error::internal("jsonb_out"))?;
        characters(text.to_bytes()).map(read)
    }
}

impl IntoDatum for JsonbDatum<'_> {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.datum)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}
