//! What the clients saw: every transaction that they know to be committed, and every one of which they do not know. Of those that
//! came to nothing, how long they held what they had redeemed.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use magic_link_harness::Redeemed;
use uuid::Uuid;

use crate::actions::{Change, Object, Terms};

pub struct Token {
    pub id: Uuid,
    pub secret: String,
    pub email: &'static str,
    pub terms: Arc<Terms>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.email)
    }
}

/// A transaction that did not fail. `start` and `end` are of one clock for all connections: what ended before another started
/// was done before.
#[derive(Debug)]
pub struct Entry {
    /// The number of its piece, which no other piece of the round has.
    pub piece: i64,
    pub connection: u64,
    pub start: u64,
    pub end: u64,
    pub acknowledged: bool,
    pub deeds: Vec<Deed>,
    pub commit: Window,
}

#[derive(Debug)]
pub struct Deed {
    pub what: What,
    /// None where it was lost with the connection.
    pub answer: Option<Answer>,
    /// The call.
    pub during: Window,
}

/// Between two moments, by the clock of the machine, which is the server's too. Something came about at one moment in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    pub from: SystemTime,
    /// None where nobody heard of its end.
    pub to: Option<SystemTime>,
}

/// Who redeemed a token, and did not commit, had the token's lock at this moment.
#[derive(Debug)]
pub struct Hold {
    pub token: Uuid,
    pub until: SystemTime,
}

#[derive(Debug)]
pub enum What {
    Create(Vec<&'static str>, Arc<Terms>),
    Redeem(Arc<Token>),
    Mistake(Arc<Token>),
    Check(Arc<Token>),
    Revoke(Arc<Token>),
    RevokeAll(&'static str),
    Delete(Arc<Token>),
    Purge,
    Remove(Object),
    Make(Object),
    Change(Change),
}

#[derive(Debug)]
pub enum Answer {
    Issued(Vec<Arc<Token>>),
    Redeemed(Redeemed),
    /// An outcome, or a status.
    Word(String),
    Count(i64),
    Done,
}

impl Window {
    pub fn of_any_time() -> Self {
        Self {
            from: SystemTime::UNIX_EPOCH,
            to: None,
        }
    }

    /// Whether it may have come about at this moment, or before it.
    pub fn may_be_by(&self, moment: SystemTime) -> bool {
        self.from <= moment
    }

    /// Whether it may have come about at this moment, or after it.
    pub fn may_be_after(&self, moment: SystemTime) -> bool {
        self.to.is_none_or(|to| to >= moment)
    }
}

impl Answer {
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}
