//! What the page says, by the SQLSTATE of a refusal, or by its outcome.

const INCOMPLETE: &str = "This link is incomplete. Open it from the mail again.";
const USED: &str = "This link was used already. If it was not you, tell us.";
const WITHDRAWN: &str = "This link is no longer valid. Ask for a new one.";
const EXPIRED: &str = "This link has expired. Ask for a new one.";
const OTHER_PAGE: &str = "This link is for something else. Open it from the mail again.";
const UNKNOWN: &str = "No account has this address. Register first.";

pub const ASK: &str = "You are signed in as somebody else. Go on as the owner of this link?";

/// None where the SQLSTATE is no refusal's.
pub fn refused(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        // 22023: the address is no address.
        "OT001" | "OT002" | "22023" => INCOMPLETE,
        "OT003" => USED,
        "OT004" => WITHDRAWN,
        "OT005" => EXPIRED,
        "OT006" => OTHER_PAGE,
        "OT007" => UNKNOWN,
        _ => return None,
    })
}

pub fn outcome(outcome: &str) -> &'static str {
    match outcome {
        "ok" => "Go on?",
        "token_consumed" => USED,
        "token_revoked" => WITHDRAWN,
        "token_expired" => EXPIRED,
        "interaction_event_mismatch" => OTHER_PAGE,
        "user_not_found" => UNKNOWN,
        _ => INCOMPLETE,
    }
}

pub fn welcome(user_id: &str) -> String {
    format!("Welcome, {user_id}.")
}

pub fn mailed_already(hint: &str) -> String {
    format!("We have mailed you already. {hint}")
}
