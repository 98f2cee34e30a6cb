//! What the extension does, in which order, and under which locks.

pub mod address_limits;
pub mod check;
pub mod issue;
pub mod join_organizations;
pub mod purge;
pub mod redeem;
pub mod release;
pub mod replay;
pub mod revoke;
pub mod session_switch;
pub mod tables;
pub mod token_lock;

use domain::refusal::{Refusal, RefusalReport};

use crate::postgres::error::{Error, SqlState};

/// A concurrent change may undo what a look has just seen, and somebody has to win. So many in a row are not chance but a
/// trigger that suppresses our rows.
const MAX_ATTEMPTS: usize = 16;

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.report().into()
    }
}

impl From<RefusalReport> for Error {
    fn from(report: RefusalReport) -> Self {
        let error = Self::new(SqlState::new(report.sqlstate), report.message);
        match report.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
