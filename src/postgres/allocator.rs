//! Rust's memory. Where the system has none, Rust would abort, and PostgreSQL restarts the whole server
//! after a process that aborted. So the session alone ends: FATAL, 53200.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_char, c_int};

use pgrx::PgLogLevel;

use super::error::SqlState;
use super::memory_reserve;

#[global_allocator]
static ALLOCATOR: SessionAllocator = SessionAllocator;

struct SessionAllocator;

// SAFETY: the system's allocator, of which nothing is changed but that it never answers null.
unsafe impl GlobalAlloc for SessionAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_end_session(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_end_session(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_end_session(unsafe { System.realloc(place, layout, size) })
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

fn or_end_session(place: *mut u8) -> *mut u8 {
    if place.is_null() {
        end_session();
    }
    place
}

/// It neither unwinds, which an allocator may not, nor jumps: FATAL ends the process. It asks Rust for
/// no memory, and PostgreSQL keeps some of its own for such a message.
#[cold]
fn end_session() -> ! {
    // Declared here without pgrx's guard, which would ask for memory.
    unsafe extern "C-unwind" {
        fn errstart(elevel: c_int, domain: *const c_char) -> bool;
        fn errcode(sqlerrcode: c_int) -> c_int;
        fn errmsg_internal(format: *const c_char, ...) -> c_int;
        fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
    }
    memory_reserve::give_back();
    // SAFETY: the calls that ereport(FATAL, …) expands to, in its order, with static strings. Only the
    // backend's one thread asks for memory.
    unsafe {
        errstart(PgLogLevel::FATAL as c_int, std::ptr::null());
        errcode(SqlState::OUT_OF_MEMORY.code());
        errmsg_internal(c"out of memory".as_ptr());
        errfinish(
            c"allocator.rs".as_ptr(),
            line!() as c_int,
            c"end_session".as_ptr(),
        );
    }
    std::process::abort()
}
