//! Memory that is set aside for when there is none left: to roll back with, and to say what happened.
//!
//! It costs 4 MiB of address space, which counts where the system gives out no more than it has, and no
//! memory until it is used. pgrx copies each error that it catches, and where the copy fails it
//! catches that one and copies it, and so on, until PostgreSQL gives up (PANIC) and with it the server.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A memory context asks for blocks of up to 1 MiB before it says that there is no memory.
const RESERVE: Layout = Layout::new::<[u8; 4 << 20]>();

static SET_ASIDE: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// Sets memory aside, unless it is there already.
pub fn set_aside() {
    if SET_ASIDE.load(Relaxed).is_null() {
        // SAFETY: a layout of some size. Where the system refuses, nothing is set aside.
        SET_ASIDE.store(unsafe { System.alloc(RESERVE) }, Relaxed);
    }
}

/// Gives it back to the system, for whoever asks next.
pub fn give_back() {
    let reserve = SET_ASIDE.swap(null_mut(), Relaxed);
    if !reserve.is_null() {
        // SAFETY: allocated above with this layout; a backend has one thread.
        unsafe { System.dealloc(reserve, RESERVE) }
    }
}
