//! Tokens, addresses, contexts, links, and the outcomes of redeeming. This crate knows no PostgreSQL, so a program in Rust
//! can use it, and so can a fuzzer.
#![forbid(unsafe_code)]

pub mod context;
pub mod email;
pub mod lifetime;
pub mod link;
pub mod outcome;
pub mod presented_token;
#[cfg(any(test, feature = "properties"))]
pub mod properties;
pub mod refusal;
pub mod token;
pub mod token_row;
pub mod user_id;
