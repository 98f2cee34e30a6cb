//! What a token, an address, a context and a link are, and which outcome redeeming has. It knows no PostgreSQL, and a
//! program in Rust can use it.
#![forbid(unsafe_code)]

pub mod context;
pub mod email;
pub mod link;
pub mod outcome;
#[cfg(any(test, feature = "properties"))]
pub mod properties;
pub mod token;
pub mod token_row;
