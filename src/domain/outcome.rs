//! What redeeming a token did, or would do, and the order in which the reasons against it count.

use std::fmt;

use crate::refusal::Refusal;

/// An outcome: `ok`, or the first reason that stands against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Refused(Refusal),
}

/// The state of a token's row, compared with the token that somebody presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenState {
    pub hash_matches: bool,
    pub email_matches: bool,
    pub consumed: bool,
    pub revoked: bool,
    pub expired: bool,
    pub event_allowed: bool,
}

impl TokenState {
    /// Why the token is not the presented one: it is another token, or for another address. None where it is.
    #[must_use]
    pub fn identity_mismatch(state: Option<Self>) -> Option<Refusal> {
        match state {
            Some(state) if state.hash_matches && state.email_matches => None,
            Some(state) if state.hash_matches => Some(Refusal::EmailMismatch),
            _ => Some(Refusal::TokenNotFound),
        }
    }
}

impl Outcome {
    /// The outcome for a token's row, if there is one.
    ///
    /// `has_user` is false where the user does not exist and may not be created.
    #[must_use]
    pub fn evaluate(state: Option<TokenState>, has_user: bool) -> Self {
        let Some(state) = state else {
            return Self::Refused(Refusal::TokenNotFound);
        };
        let reasons = [
            (!state.hash_matches, Refusal::TokenNotFound),
            (!state.email_matches, Refusal::EmailMismatch),
            (state.consumed, Refusal::TokenConsumed),
            (state.revoked, Refusal::TokenRevoked),
            (state.expired, Refusal::TokenExpired),
            (!state.event_allowed, Refusal::InteractionEventMismatch),
            (!has_user, Refusal::UserNotFound),
        ];
        reasons
            .into_iter()
            .find_map(|(holds, refusal)| holds.then_some(Self::Refused(refusal)))
            .unwrap_or(Self::Ok)
    }

    #[must_use]
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Ok => None,
            Self::Refused(refusal) => Some(refusal),
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a token's row says by itself, as the view `one_time_token_status` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenStatus {
    Active,
    Consumed,
    Revoked,
    Expired,
}

impl TokenStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Consumed => "consumed",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: TokenState = TokenState {
        hash_matches: true,
        email_matches: true,
        consumed: false,
        revoked: false,
        expired: false,
        event_allowed: true,
    };

    #[test]
    fn a_good_token_is_ok() {
        assert_eq!(Outcome::evaluate(Some(GOOD), true), Outcome::Ok);
    }

    #[test]
    fn no_row_is_not_found_whatever_the_user() {
        for has_user in [true, false] {
            let outcome = Outcome::evaluate(None, has_user);
            assert_eq!(outcome, Outcome::Refused(Refusal::TokenNotFound));
        }
    }

    /// Every one of the 2^7 combinations answers its first reason in the order of the contract.
    #[test]
    fn the_first_reason_counts() {
        let order = Refusal::ALL;
        for reasons in 0_u8..1 << order.len() {
            let holds = |n: usize| reasons & (1 << n) != 0;
            let state = TokenState {
                hash_matches: !holds(0),
                email_matches: !holds(1),
                consumed: holds(2),
                revoked: holds(3),
                expired: holds(4),
                event_allowed: !holds(5),
            };
            let expected = (0..order.len()).find(|n| holds(*n)).map(|n| order[n]);
            let outcome = Outcome::evaluate(Some(state), !holds(6));
            assert_eq!(outcome, expected.map_or(Outcome::Ok, Outcome::Refused));
        }
    }
}
