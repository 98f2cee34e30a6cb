//! How errors leave the extension: every SQL function runs inside [`run_or_ereport`].
//!
//! An error of ours is a value. It goes up through Rust frames, and is raised when nothing is left to drop: the errors
//! of pgrx know only PostgreSQL's own SQLSTATEs, and unwinding takes ten times as long. An error of PostgreSQL's unwinds,
//! as a panic of pgrx's, and is raised again as it was.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgLogLevel, pg_sys};

use super::error::{Error, SqlState};
use super::memory_reserve;

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

/// An error that is to be raised, with nothing left that needs dropping.
#[derive(Clone, Copy)]
enum PendingError {
    /// PostgreSQL's, which lies where it was raised, on its error stack.
    Postgres,
    /// Ours, in PostgreSQL's memory.
    Own {
        sqlstate: c_int,
        message: *mut c_char,
        detail: *mut c_char,
        hint: *mut c_char,
    },
}

/// Runs the body of a function that PostgreSQL called; what fails in it is raised as an ERROR.
///
/// The caller's statement may quote a token. So its text is hidden from the log for every message
/// that comes from below, the server's own FATALs and LOGs included; and the context of such a
/// message begins here, so that it quotes nothing of what is around us.
///
/// # Safety
/// To be called by PostgreSQL's function manager alone, through frames that drop nothing.
pub unsafe fn run_or_ereport<T: Copy>(body: impl FnOnce() -> Result<T, Error>) -> T {
    // SAFETY: a backend has one thread. `hiding` lives as long as it is on the stack of callbacks:
    // we take it off when we return, and whoever catches an error puts back its own.
    unsafe {
        let around = pg_sys::error_context_stack;
        let exceptions = pg_sys::PG_exception_stack;
        let mut hiding = pg_sys::ErrorContextCallback {
            previous: std::ptr::null_mut(),
            callback: Some(on_message),
            arg: std::ptr::null_mut(),
        };
        pg_sys::error_context_stack = &raw mut hiding;
        memory_reserve::set_aside();
        let error = match run(body) {
            Ok(answer) => {
                pg_sys::error_context_stack = around;
                return answer;
            }
            Err(error) => error,
        };
        // Where pgrx failed to copy an error, for lack of memory, both still point into frames that are gone.
        pg_sys::PG_exception_stack = exceptions;
        pg_sys::error_context_stack = &raw mut hiding;
        match error {
            PendingError::Postgres => rethrow(),
            PendingError::Own {
                sqlstate,
                message,
                detail,
                hint,
            } => ereport(sqlstate, message, detail, hint),
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
fn run<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, PendingError> {
    catch_unwind(AssertUnwindSafe(|| body().map_err(PendingError::from)))
        .unwrap_or_else(|panic| Err(from_panic(panic)))
}

fn from_panic(panic: Box<dyn Any + Send>) -> PendingError {
    match own_error(panic) {
        // What fails there is PostgreSQL's pnstrdup, for lack of memory.
        Some(error) => catch_unwind(|| PendingError::from(error)).unwrap_or(PendingError::Postgres),
        None => PendingError::Postgres,
    }
}

/// pgrx raises PostgreSQL's errors as panics, for which this is None, and its own. The words of any other panic
/// may quote data, and are kept back.
fn own_error(panic: Box<dyn Any + Send>) -> Option<Error> {
    match panic.downcast::<CaughtError>().map(|caught| *caught) {
        Ok(CaughtError::PostgresError(_)) => None,
        Ok(CaughtError::ErrorReport(error)) => Some(Error {
            sqlstate: SqlState::from_code(error.sql_error_code() as c_int),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }),
        _ => Some(Error::new(
            SqlState::INTERNAL_ERROR,
            "internal error in magic_link",
        )),
    }
}

impl From<Error> for PendingError {
    fn from(error: Error) -> Self {
        Self::Own {
            sqlstate: error.sqlstate.code(),
            message: c_string(Some(error.message)),
            detail: c_string(error.detail),
            hint: c_string(error.hint),
        }
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

/// Raises the error on PostgreSQL's error stack once more, without what may quote a secret.
///
/// # Safety
/// There is such an error, and no frame between here and PostgreSQL holds anything that needs dropping: this
/// never returns.
unsafe fn rethrow() -> ! {
    // Declared here without pgrx's guard, which would catch what we raise.
    unsafe extern "C-unwind" {
        fn MemoryContextReset(context: pg_sys::MemoryContext);
        fn CopyErrorData() -> *mut pg_sys::ErrorData;
        fn FlushErrorState();
        fn ReThrowError(edata: *mut pg_sys::ErrorData) -> !;
    }
    // SAFETY: as PG_CATCH does it, with a copy that is ours alone; its names are null or zero-terminated.
    unsafe {
        let set_aside = ERROR_MEMORY.load(Ordering::Relaxed);
        MemoryContextReset(set_aside);
        pg_sys::CurrentMemoryContext = set_aside;
        let error = CopyErrorData();
        FlushErrorState();
        // After a deadlock it quotes the statements of all who took part.
        (*error).detail_log = std::ptr::null_mut();
        let is = |name: *mut c_char, ours| !name.is_null() && CStr::from_ptr(name) == ours;
        if is((*error).schema_name, c"magic_link") && is((*error).table_name, c"one_time_tokens") {
            // A constraint quotes the row, and the hash is in it.
            (*error).detail = std::ptr::null_mut();
        }
        ReThrowError(error)
    }
}

/// Raises an error of ours.
///
/// # Safety
/// No frame between here and PostgreSQL holds anything that needs dropping: this never returns. The strings are
/// null or zero-terminated, and live until the error is handled.
unsafe fn ereport(
    sqlstate: c_int,
    message: *const c_char,
    detail: *const c_char,
    hint: *const c_char,
) -> ! {
    // Declared here without pgrx's guard, which would catch what we raise.
    unsafe extern "C-unwind" {
        fn errstart(elevel: c_int, domain: *const c_char) -> bool;
        fn errcode(sqlerrcode: c_int) -> c_int;
        fn errmsg_internal(format: *const c_char, ...) -> c_int;
        fn errdetail_internal(format: *const c_char, ...) -> c_int;
        fn errhint(format: *const c_char, ...) -> c_int;
        fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
    }
    const VERBATIM: &CStr = c"%s";
    // SAFETY: the calls that ereport(ERROR, …) expands to, in its order; an ERROR never returns from errfinish.
    unsafe {
        errstart(PgLogLevel::ERROR as c_int, std::ptr::null());
        errcode(sqlstate);
        errmsg_internal(VERBATIM.as_ptr(), message);
        if !detail.is_null() {
            errdetail_internal(VERBATIM.as_ptr(), detail);
        }
        if !hint.is_null() {
            errhint(VERBATIM.as_ptr(), hint);
        }
        errfinish(
            c"ereport.rs".as_ptr(),
            line!() as c_int,
            c"ereport".as_ptr(),
        );
    }
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_keeps_its_words_to_itself() {
        let error = own_error(Box::new("a secret")).unwrap();
        assert_eq!(error.sqlstate, SqlState::INTERNAL_ERROR);
        assert!(!error.message.contains("secret"));
    }
}
