//! One call of a SQL function, and its arguments.

use std::ffi::CStr;

use pgrx::datum::Interval;
use pgrx::fcinfo::{direct_function_call, pg_getarg, pg_getarg_datum};
use pgrx::{Array, pg_sys};
use uuid::Uuid;

use super::datum::{CallMemory, characters, from_pg_uuid};
use super::error::{Error, SqlState};
use super::jsonb::JsonbDatum;

/// One call of a function.
pub struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
    memory: CallMemory,
}

impl Call {
    /// # Safety
    /// `fcinfo` is what PostgreSQL passed, and this is kept no longer than the call runs.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: as the caller promises.
        let memory = unsafe { CallMemory::of_call() };
        Self { fcinfo, memory }
    }

    pub(super) fn fcinfo(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }
}

/// 42P13: as after an update that only one of the library and its declarations went through.
pub(super) fn declaration_mismatch() -> Error {
    Error::new(
        SqlState::INVALID_FUNCTION_DEFINITION,
        "the function's declaration and magic_link's library do not match",
    )
    .hint("Run ALTER EXTENSION magic_link UPDATE.")
}

/// 25006, in PostgreSQL's own words, where nothing may be written: a hot standby, say.
pub fn forbid_in_read_only_transaction(function: &CStr) {
    // SAFETY: the name is zero-terminated and copied.
    unsafe { pg_sys::PreventCommandIfReadOnly(function.as_ptr()) }
}

impl Call {
    pub fn memory(&self) -> &CallMemory {
        &self.memory
    }

    /// The text argument at `position`, None where it is NULL.
    pub fn text(&self, position: usize) -> Result<Option<&str>, Error> {
        // SAFETY: sql/functions.sql declares this argument as text, which has the form of a bytea; the datum
        // outlives the call.
        let bytes: Option<&[u8]> = unsafe { pg_getarg(self.fcinfo, position) };
        bytes.map(characters).transpose()
    }

    /// The text argument at `position`, which may not be NULL (22004).
    pub fn required_text(&self, position: usize, name: &str) -> Result<&str, Error> {
        self.text(position)?
            .ok_or_else(|| Error::null_argument(name))
    }

    pub fn integer(&self, position: usize) -> Option<i32> {
        // SAFETY: sql/functions.sql declares this argument as integer.
        unsafe { pg_getarg(self.fcinfo, position) }
    }

    /// The uuid argument at `position`, which may not be NULL (22004).
    pub fn required_uuid(&self, position: usize, name: &str) -> Result<Uuid, Error> {
        // SAFETY: sql/functions.sql declares this argument as uuid.
        let id: Option<pgrx::Uuid> = unsafe { pg_getarg(self.fcinfo, position) };
        id.map(from_pg_uuid)
            .ok_or_else(|| Error::null_argument(name))
    }

    pub fn interval(&self, position: usize) -> Option<Interval> {
        // SAFETY: sql/functions.sql declares this argument as interval.
        unsafe { pg_getarg(self.fcinfo, position) }
    }

    /// The text array argument at `position`, None where it is NULL.
    pub fn texts(&self, position: usize) -> Option<TextArray<'_>> {
        // SAFETY: sql/functions.sql declares this argument as text[]; the array outlives the call.
        // array_ndims takes any array.
        unsafe {
            let array = pg_getarg_datum(self.fcinfo, position);
            Some(TextArray {
                elements: pg_getarg(self.fcinfo, position)?,
                dimensions: direct_function_call(pg_sys::array_ndims, &[array]).unwrap_or(0),
            })
        }
    }

    pub fn jsonb(&self, position: usize) -> Option<JsonbDatum<'_>> {
        // SAFETY: sql/functions.sql declares this argument as jsonb; the datum outlives the call.
        unsafe { pg_getarg_datum(self.fcinfo, position).map(|datum| JsonbDatum::from_datum(datum)) }
    }
}

/// An array of texts.
pub struct TextArray<'c> {
    elements: Array<'c, &'c [u8]>,
    /// 0 where it is empty.
    pub dimensions: i32,
}

impl TextArray<'_> {
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// The elements in order, None for NULL.
    pub fn iter(&self) -> impl Iterator<Item = Result<Option<&str>, Error>> {
        let elements = self.elements.iter();
        elements.map(|bytes| bytes.map(characters).transpose())
    }
}
