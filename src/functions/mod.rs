//! The functions that SQL calls, as `sql/functions.sql` declares and documents them. They read arguments, call an operation,
//! and return its result.
//!
//! None is STRICT: a NULL argument without a meaning of its own raises 22004 in place of the answer NULL.

mod admin;
mod arguments;
mod create;
mod immutable;
mod redeem;
mod session_switch;
