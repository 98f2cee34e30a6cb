//! The modules of src/ that do not use PostgreSQL. `make torture PARTS=fuzz` runs the targets.

#![allow(dead_code)]

#[path = "../../src/context.rs"]
mod context;
#[path = "../../src/email.rs"]
mod email;
#[path = "../../src/link.rs"]
mod link;
#[path = "../properties.rs"]
pub mod properties;
#[path = "../../src/token.rs"]
mod token;
