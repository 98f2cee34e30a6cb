//! The SQL text and the keys of each table, and no decisions. Tables do not know one another.

pub mod address_lock;
pub mod memberships;
pub mod one_time_tokens;
pub mod organizations;
pub mod session_switch;
pub mod users;
