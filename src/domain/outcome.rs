//! What redeeming a token did, or would do, and the order in which the reasons against it count.

use std::fmt;

/// An outcome: `ok`, or the first reason that stands against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Refused(Refusal),
}

/// Why a token is not redeemed, in the order in which the reasons count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    TokenNotFound,
    EmailMismatch,
    TokenConsumed,
    TokenRevoked,
    TokenExpired,
    InteractionEventMismatch,
    UserNotFound,
}

/// What the ledger knows of a token that somebody presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub hash_matches: bool,
    pub email_matches: bool,
    pub consumed: bool,
    pub revoked: bool,
    pub expired: bool,
    pub event_allowed: bool,
}

impl Facts {
    /// Why a claimant is nobody's business of this token: it is another token, or for another address.
    pub fn stranger(facts: Option<Self>) -> Option<Refusal> {
        match facts {
            Some(facts) if facts.hash_matches && facts.email_matches => None,
            Some(facts) if facts.hash_matches => Some(Refusal::EmailMismatch),
            _ => Some(Refusal::TokenNotFound),
        }
    }
}

impl Outcome {
    /// The verdict on a token's row, if there is one.
    ///
    /// `user_may_follow` is false where the user does not exist and may not be created.
    pub fn judge(facts: Option<Facts>, user_may_follow: bool) -> Self {
        let Some(facts) = facts else {
            return Self::Refused(Refusal::TokenNotFound);
        };
        let reasons = [
            (!facts.hash_matches, Refusal::TokenNotFound),
            (!facts.email_matches, Refusal::EmailMismatch),
            (facts.consumed, Refusal::TokenConsumed),
            (facts.revoked, Refusal::TokenRevoked),
            (facts.expired, Refusal::TokenExpired),
            (!facts.event_allowed, Refusal::InteractionEventMismatch),
            (!user_may_follow, Refusal::UserNotFound),
        ];
        reasons
            .into_iter()
            .find_map(|(holds, refusal)| holds.then_some(Self::Refused(refusal)))
            .unwrap_or(Self::Ok)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused(refusal) => refusal.as_str(),
        }
    }
}

impl Refusal {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenNotFound => "token_not_found",
            Self::EmailMismatch => "email_mismatch",
            Self::TokenConsumed => "token_consumed",
            Self::TokenRevoked => "token_revoked",
            Self::TokenExpired => "token_expired",
            Self::InteractionEventMismatch => "interaction_event_mismatch",
            Self::UserNotFound => "user_not_found",
        }
    }

    /// The SQLSTATE of a refusal that is raised as an error.
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::TokenNotFound => "OT001",
            Self::EmailMismatch => "OT002",
            Self::TokenConsumed => "OT003",
            Self::TokenRevoked => "OT004",
            Self::TokenExpired => "OT005",
            Self::InteractionEventMismatch => "OT006",
            Self::UserNotFound => "OT007",
        }
    }

    /// The primary message.
    pub fn message(self) -> &'static str {
        match self {
            Self::TokenNotFound => "one-time token not found",
            Self::EmailMismatch => "one-time token was issued for another address",
            Self::TokenConsumed => "one-time token has already been consumed",
            Self::TokenRevoked => "one-time token has been revoked",
            Self::TokenExpired => "one-time token has expired",
            Self::InteractionEventMismatch => "one-time token is for another interaction event",
            Self::UserNotFound => "no user has the address of the one-time token",
        }
    }

    /// What there is to do about it, if there is something.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::TokenNotFound => Some("The link may have been cut off or altered on its way."),
            Self::EmailMismatch => Some("Pass the address that the link carries."),
            Self::TokenConsumed | Self::TokenRevoked | Self::TokenExpired => {
                Some("Create a new token and mail a new link.")
            }
            Self::InteractionEventMismatch => {
                Some("Name the interactionEvent that the token was created with.")
            }
            Self::UserNotFound => {
                Some("The interaction events SignIn and ForgotPassword never create a user.")
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Facts = Facts {
        hash_matches: true,
        email_matches: true,
        consumed: false,
        revoked: false,
        expired: false,
        event_allowed: true,
    };

    #[test]
    fn a_good_token_is_ok() {
        assert_eq!(Outcome::judge(Some(GOOD), true), Outcome::Ok);
    }

    #[test]
    fn no_row_is_not_found_whatever_the_user() {
        for user_may_follow in [true, false] {
            let outcome = Outcome::judge(None, user_may_follow);
            assert_eq!(outcome, Outcome::Refused(Refusal::TokenNotFound));
        }
    }

    /// Every one of the 2^7 combinations answers its first reason in the order of the contract.
    #[test]
    fn the_first_reason_counts() {
        use Refusal::*;
        let order = [
            TokenNotFound,
            EmailMismatch,
            TokenConsumed,
            TokenRevoked,
            TokenExpired,
            InteractionEventMismatch,
            UserNotFound,
        ];
        for reasons in 0_u8..1 << order.len() {
            let holds = |n: usize| reasons & (1 << n) != 0;
            let facts = Facts {
                hash_matches: !holds(0),
                email_matches: !holds(1),
                consumed: holds(2),
                revoked: holds(3),
                expired: holds(4),
                event_allowed: !holds(5),
            };
            let expected = (0..order.len()).find(|n| holds(*n)).map(|n| order[n]);
            let outcome = Outcome::judge(Some(facts), !holds(6));
            assert_eq!(outcome, expected.map_or(Outcome::Ok, Outcome::Refused));
        }
    }

    #[test]
    fn codes_are_those_of_the_contract() {
        use Refusal::*;
        let table = [
            (TokenNotFound, "token_not_found", "OT001"),
            (EmailMismatch, "email_mismatch", "OT002"),
            (TokenConsumed, "token_consumed", "OT003"),
            (TokenRevoked, "token_revoked", "OT004"),
            (TokenExpired, "token_expired", "OT005"),
            (
                InteractionEventMismatch,
                "interaction_event_mismatch",
                "OT006",
            ),
            (UserNotFound, "user_not_found", "OT007"),
        ];
        for (refusal, name, code) in table {
            assert_eq!((refusal.as_str(), refusal.sqlstate()), (name, code));
            assert_eq!(Outcome::Refused(refusal).to_string(), name);
            assert!(refusal.message().chars().all(|c| !c.is_uppercase()));
        }
    }
}
