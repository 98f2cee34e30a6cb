pub mod memberships;
pub mod one_time_tokens;
