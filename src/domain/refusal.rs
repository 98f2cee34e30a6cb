//! The one table of refusals: for each its outcome, its SQLSTATE, and the words of its error.

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

/// How a refusal is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalReport {
    /// Where it is a value, in a row or as a text; None where it is only ever an error.
    pub outcome: Option<&'static str>,
    pub sqlstate: &'static str,
    /// The primary message of the error.
    pub message: &'static str,
    /// What there is to do; None where that depends on more than the refusal.
    pub hint: Option<&'static str>,
}

/// Creating a token is refused: the address has as many active tokens as it may have.
pub const TOO_MANY_ACTIVE_TOKENS: RefusalReport = RefusalReport {
    outcome: None,
    sqlstate: "OT008",
    message: "the address has too many active one-time tokens",
    hint: None,
};

impl Refusal {
    pub const ALL: [Self; 7] = [
        Self::TokenNotFound,
        Self::EmailMismatch,
        Self::TokenConsumed,
        Self::TokenRevoked,
        Self::TokenExpired,
        Self::InteractionEventMismatch,
        Self::UserNotFound,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    #[must_use]
    pub fn report(self) -> RefusalReport {
        let (outcome, sqlstate, message, hint) = self.row();
        RefusalReport {
            outcome: Some(outcome),
            sqlstate,
            message,
            hint: Some(hint),
        }
    }

    /// Its outcome, SQLSTATE, message and hint.
    fn row(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::TokenNotFound => (
                "token_not_found",
                "OT001",
                "one-time token not found",
                "The link may have been cut off or altered on its way.",
            ),
            Self::EmailMismatch => (
                "email_mismatch",
                "OT002",
                "one-time token was issued for another address",
                "Pass the address that the link carries.",
            ),
            Self::TokenConsumed => (
                "token_consumed",
                "OT003",
                "one-time token has already been consumed",
                "Create a new token and mail a new link.",
            ),
            Self::TokenRevoked => (
                "token_revoked",
                "OT004",
                "one-time token has been revoked",
                "Create a new token and mail a new link.",
            ),
            Self::TokenExpired => (
                "token_expired",
                "OT005",
                "one-time token has expired",
                "Create a new token and mail a new link.",
            ),
            Self::InteractionEventMismatch => (
                "interaction_event_mismatch",
                "OT006",
                "one-time token is for another interaction event",
                "Name the interactionEvent that the token was created with.",
            ),
            Self::UserNotFound => (
                "user_not_found",
                "OT007",
                "no user has the address of the one-time token",
                "The interaction events SignIn and ForgotPassword never create a user.",
            ),
        }
    }
}

/// All refusals, in the order of their SQLSTATEs.
pub fn all_reports() -> impl Iterator<Item = RefusalReport> {
    let of_redeeming = Refusal::ALL.into_iter().map(Refusal::report);
    of_redeeming.chain([TOO_MANY_ACTIVE_TOKENS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_sqlstates_are_those_of_the_releases() {
        let released = [
            (Some("token_not_found"), "OT001"),
            (Some("email_mismatch"), "OT002"),
            (Some("token_consumed"), "OT003"),
            (Some("token_revoked"), "OT004"),
            (Some("token_expired"), "OT005"),
            (Some("interaction_event_mismatch"), "OT006"),
            (Some("user_not_found"), "OT007"),
            (None, "OT008"),
        ];
        let reported = all_reports().map(|report| (report.outcome, report.sqlstate));
        assert!(reported.eq(released));
        assert!(Refusal::ALL.is_sorted());
    }

    /// As PostgreSQL's style guide for messages wants it.
    #[test]
    fn messages_are_no_sentences_and_hints_are() {
        for RefusalReport { message, hint, .. } in all_reports() {
            assert!(!message.starts_with(char::is_uppercase) && !message.ends_with('.'));
            assert!(hint.is_none_or(|it| it.starts_with(char::is_uppercase) && it.ends_with('.')));
        }
    }
}
