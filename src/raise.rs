//! The one place that catches and raises PostgreSQL's errors.
//!
//! pgrx turns every error into a panic with a code from a closed list: a SQLSTATE of our own, or of
//! an application's trigger, would arrive as XX000, without its constraint and context. So we catch
//! an error whole, hand it up as a value through Rust frames that drop what they hold, and throw it
//! when there is nothing left to drop.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering};

use cee_scape::{SigJmpBufFields, call_with_sigsetjmp};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgLogLevel, pg_sys};

use crate::memory_reserve;
use crate::outcome::Refusal;

/// Anything that ends a call without an answer.
#[derive(Debug)]
pub enum Failure {
    /// An error of ours.
    Report(Report),
    /// An error that PostgreSQL raised while it worked for us, as it was raised.
    Postgres(Raised),
}

/// An error of ours, with everything that a client may see of it.
#[derive(Debug)]
pub struct Report {
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// An error as PostgreSQL holds it: a copy that lives until the next one is caught.
#[derive(Debug)]
pub struct Raised(*mut pg_sys::ErrorData);

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

impl Report {
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
    pub fn null(argument: &str) -> Self {
        Self::new(
            SqlState::NULL_VALUE_NOT_ALLOWED,
            format!("{argument} must not be null"),
        )
    }

    /// 22023: an argument is not what it should be; `why` is a sentence that names what is wrong.
    pub fn invalid(what: &str, why: impl ToString) -> Self {
        Self::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid {what}")).detail(why)
    }

    /// 27000: a row of ours that a trigger keeps from being written.
    pub fn suppressed(table: &str) -> Self {
        Self::new(
            SqlState::TRIGGERED_DATA_CHANGE_VIOLATION,
            format!("a row of magic_link.{table} could not be written"),
        )
        .hint("A trigger on the table may suppress it.")
    }
}

impl Failure {
    /// Without the DETAIL of a constraint on a table of ours, which quotes the row.
    pub fn without_row(self, table: &CStr) -> Self {
        if let Self::Postgres(Raised(error)) = &self {
            // SAFETY: CopyErrorData's copy, which is ours alone until it is thrown; its names are
            // null or zero-terminated.
            unsafe {
                let error = &mut **error;
                let is = |name: *mut c_char, ours| !name.is_null() && CStr::from_ptr(name) == ours;
                if is(error.schema_name, c"magic_link") && is(error.table_name, table) {
                    error.detail = std::ptr::null_mut();
                }
            }
        }
        self
    }
}

impl From<Refusal> for Report {
    fn from(refusal: Refusal) -> Self {
        Self {
            hint: refusal.hint().map(str::to_owned),
            ..Self::new(SqlState::new(refusal.sqlstate()), refusal.message())
        }
    }
}

impl<R: Into<Report>> From<R> for Failure {
    fn from(report: R) -> Self {
        Self::Report(report.into())
    }
}

/// XX000: a mistake of ours, which no input can cause.
pub fn internal(what: &str) -> Failure {
    let message = format!("internal error in magic_link: {what}");
    Report::new(SqlState::INTERNAL_ERROR, message).into()
}

/// Memory for the copy of one error, set aside beforehand: where none is left the error is about that, and a
/// copy that fails raises another one in the middle of the first.
static ERROR_MEMORY: AtomicPtr<pg_sys::MemoryContextData> = AtomicPtr::new(std::ptr::null_mut());

/// Sets memory aside for errors; called when the library is loaded.
pub fn set_memory_aside() {
    let size = pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize;
    // SAFETY: a child of a context that lives as long as the process, with a static name. It keeps its first
    // block when it is reset.
    let memory = unsafe {
        pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"magic_link error".as_ptr(),
            size,
            size,
            size,
        )
    };
    ERROR_MEMORY.store(memory, Ordering::Relaxed);
}

/// Copies the error that PostgreSQL has just jumped with. An earlier copy was thrown, or given up, before:
/// after an error nothing is asked of PostgreSQL that could raise the next.
///
/// # Safety
/// To be called where PG_CATCH would copy the error.
unsafe fn copy_error() -> *mut pg_sys::ErrorData {
    // Declared here without pgrx's guard, which would copy an error of the copying, and so on.
    unsafe extern "C-unwind" {
        fn MemoryContextReset(context: pg_sys::MemoryContext);
        fn CopyErrorData() -> *mut pg_sys::ErrorData;
        fn FlushErrorState();
    }
    // SAFETY: there is an error to copy; the current memory is put back.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let set_aside = ERROR_MEMORY.load(Ordering::Relaxed);
        MemoryContextReset(set_aside);
        pg_sys::CurrentMemoryContext = set_aside;
        let copy = CopyErrorData();
        pg_sys::CurrentMemoryContext = memory;
        FlushErrorState();
        copy
    }
}

/// Runs one call into PostgreSQL and catches the error that it raises, whole.
///
/// After an error the transaction or subtransaction is doomed: nothing more may be asked of
/// PostgreSQL but to raise the error again.
///
/// # Safety
/// `call` may hold nothing that needs dropping, may not panic, and may only call functions of
/// PostgreSQL's that are declared without pgrx's guard: a longjmp leaves it.
pub unsafe fn catch<T>(call: impl FnOnce() -> T) -> Result<T, Failure> {
    memory_reserve::set_aside();
    let mut answer = MaybeUninit::uninit();
    // SAFETY: as PG_TRY does it: the exception stack points to our jump buffer while, and only
    // while, `call` runs; then, on both ways out, everything it changed is put back. A backend has
    // one thread. After a jump `answer` is not read, and there is an error to copy.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let exceptions = pg_sys::PG_exception_stack;
        let contexts = pg_sys::error_context_stack;
        let jumped = call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = std::ptr::from_ref::<SigJmpBufFields>(buffer)
                .cast_mut()
                .cast();
            answer.write(call());
            0
        });
        pg_sys::PG_exception_stack = exceptions;
        pg_sys::error_context_stack = contexts;
        if jumped == 0 {
            return Ok(answer.assume_init());
        }
        pg_sys::CurrentMemoryContext = memory;
        Err(Failure::Postgres(Raised(copy_error())))
    }
}

/// An error in PostgreSQL's memory, with nothing left that needs dropping.
#[derive(Clone, Copy)]
enum Throwable {
    Raised(*mut pg_sys::ErrorData),
    Report {
        sqlstate: c_int,
        message: *mut c_char,
        detail: *mut c_char,
        hint: *mut c_char,
    },
}

/// Runs the body of a function that PostgreSQL called; what fails in it is thrown as an ERROR.
///
/// The caller's statement may quote a token. So its text is hidden from the log for every message
/// that comes from below, the server's own FATALs and LOGs included; and the context of such a
/// message begins here, so that it quotes nothing of what is around us.
///
/// # Safety
/// To be called by PostgreSQL's function manager alone, through frames that drop nothing.
pub unsafe fn or_throw<T: Copy>(body: impl FnOnce() -> Result<T, Failure>) -> T {
    // SAFETY: a backend has one thread. `hiding` lives as long as it is on the stack of callbacks:
    // we take it off when we return, and whoever catches an error puts back its own.
    unsafe {
        let around = pg_sys::error_context_stack;
        let mut hiding = pg_sys::ErrorContextCallback {
            previous: std::ptr::null_mut(),
            callback: Some(on_message),
            arg: std::ptr::null_mut(),
        };
        pg_sys::error_context_stack = &raw mut hiding;
        memory_reserve::set_aside();
        match caught(body) {
            Ok(answer) => {
                pg_sys::error_context_stack = around;
                answer
            }
            // Everything of Rust's is dropped; what is thrown lives in PostgreSQL's memory.
            Err(error) => throw(error),
        }
    }
}

/// Hides the statement; and where the message is that there is no memory, whoever is going to catch it gets
/// some.
///
/// # Safety
/// To be called by PostgreSQL while it makes a message.
unsafe extern "C-unwind" fn on_message(_: *mut c_void) {
    unsafe extern "C-unwind" {
        fn errhidestmt(hide_stmt: bool) -> c_int;
        fn geterrcode() -> c_int;
    }
    // SAFETY: there is a message: this reads and sets fields of it.
    unsafe {
        errhidestmt(true);
        if geterrcode() == SqlState::OUT_OF_MEMORY.code() {
            memory_reserve::give_back();
        }
    }
}

#[inline(never)]
fn caught<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Throwable> {
    catch_unwind(AssertUnwindSafe(|| body().map_err(Throwable::from))).unwrap_or_else(|panic| {
        let report = Failure::Report(from_panic(panic));
        Err(catch_unwind(|| Throwable::from(report)).unwrap_or(Throwable::OUT_OF_MEMORY))
    })
}

impl Throwable {
    /// For when there is no memory left to say what happened.
    const OUT_OF_MEMORY: Self = Self::Report {
        sqlstate: SqlState::OUT_OF_MEMORY.code(),
        message: c"out of memory".as_ptr().cast_mut(),
        detail: std::ptr::null_mut(),
        hint: std::ptr::null_mut(),
    };
}

impl From<Failure> for Throwable {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Postgres(Raised(error)) => Self::Raised(error),
            Failure::Report(report) => Self::Report {
                sqlstate: report.sqlstate.code(),
                message: c_string(Some(report.message)),
                detail: c_string(report.detail),
                hint: c_string(report.hint),
            },
        }
    }
}

/// pgrx raises as a panic what fails in a call that it guards: out of memory, a broken toast value.
/// The words of any other panic may quote data, and are kept back.
fn from_panic(panic: Box<dyn Any + Send>) -> Report {
    match panic.downcast::<CaughtError>().map(|caught| *caught) {
        Ok(CaughtError::PostgresError(error) | CaughtError::ErrorReport(error)) => Report {
            sqlstate: SqlState(error.sql_error_code() as c_int),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        },
        _ => Report::new(SqlState::INTERNAL_ERROR, "internal error in magic_link"),
    }
}

/// A copy in PostgreSQL's memory, null for None.
fn c_string(text: Option<String>) -> *mut c_char {
    let Some(text) = text else {
        return std::ptr::null_mut();
    };
    // SAFETY: the source has `len` bytes that are not zero-terminated; pnstrdup asks for no more.
    unsafe { pg_sys::pnstrdup(text.as_ptr().cast(), text.len()) }
}

/// # Safety
/// No frame between here and PostgreSQL may hold anything that needs dropping: this never returns.
unsafe fn throw(error: Throwable) -> ! {
    // Declared here without pgrx's guard, which would catch what we throw.
    unsafe extern "C-unwind" {
        fn ReThrowError(edata: *mut pg_sys::ErrorData) -> !;
        fn errstart(elevel: c_int, domain: *const c_char) -> bool;
        fn errcode(sqlerrcode: c_int) -> c_int;
        fn errmsg_internal(format: *const c_char, ...) -> c_int;
        fn errdetail_internal(format: *const c_char, ...) -> c_int;
        fn errhint(format: *const c_char, ...) -> c_int;
        fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
    }
    const VERBATIM: &CStr = c"%s";
    // SAFETY: the calls that ereport(ERROR, …) expands to, in its order; the strings are null or
    // zero-terminated and live until the error is handled; an ERROR never returns from errfinish.
    unsafe {
        match error {
            Throwable::Raised(error) => {
                // After a deadlock it quotes the statements of all who took part.
                (*error).detail_log = std::ptr::null_mut();
                ReThrowError(error)
            }
            Throwable::Report {
                sqlstate,
                message,
                detail,
                hint,
            } => {
                errstart(PgLogLevel::ERROR as c_int, std::ptr::null());
                errcode(sqlstate);
                errmsg_internal(VERBATIM.as_ptr(), message);
                if !detail.is_null() {
                    errdetail_internal(VERBATIM.as_ptr(), detail);
                }
                if !hint.is_null() {
                    errhint(VERBATIM.as_ptr(), hint);
                }
                errfinish(c"raise.rs".as_ptr(), line!() as c_int, c"throw".as_ptr());
                std::process::abort()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlstate_is_packed_as_postgresql_packs_it() {
        let of_pgrx = [
            (
                "22004",
                pgrx::PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            ),
            ("23503", pgrx::PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION),
            ("XX000", pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR),
        ];
        for (code, packed) in of_pgrx {
            assert_eq!(SqlState::new(code), SqlState(packed as c_int));
        }
    }

    #[test]
    fn a_panic_keeps_its_words_to_itself() {
        let report = from_panic(Box::new("a secret"));
        assert_eq!(report.sqlstate, SqlState::INTERNAL_ERROR);
        assert!(!report.message.contains("secret"));
    }
}
