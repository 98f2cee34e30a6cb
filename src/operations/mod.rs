pub mod address_limits;
pub mod issue;
pub mod redeem;
pub mod revoke;
pub mod session_switch;
pub mod tables;
pub mod token_lock;
