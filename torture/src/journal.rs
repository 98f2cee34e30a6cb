//! What the clients saw: every transaction that they know to be committed, and every one of which they do not know.

use std::fmt;
use std::sync::Arc;

use magic_link_harness::Redeemed;
use uuid::Uuid;

use crate::actions::{Object, Terms};

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
    pub connection: u64,
    pub start: u64,
    pub end: u64,
    pub acknowledged: bool,
    pub deeds: Vec<Deed>,
}

#[derive(Debug)]
pub struct Deed {
    pub what: What,
    /// None where it was lost with the connection.
    pub answer: Option<Answer>,
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

impl Answer {
    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}
