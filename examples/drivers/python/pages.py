"""What the page says, by the SQLSTATE of a refusal or by its outcome."""

INCOMPLETE = "This link is incomplete. Open it from the mail again."
USED = "This link was used already. If it was not you, tell us."
WITHDRAWN = "This link is no longer valid. Ask for a new one."
EXPIRED = "This link has expired. Ask for a new one."
OTHER_PAGE = "This link is for something else. Open it from the mail again."
UNKNOWN = "No account has this address. Register first."

REFUSED = {
    "OT001": INCOMPLETE,
    "OT002": INCOMPLETE,
    "OT003": USED,
    "OT004": WITHDRAWN,
    "OT005": EXPIRED,
    "OT006": OTHER_PAGE,
    "OT007": UNKNOWN,
    "22023": INCOMPLETE,  # the address is no address
}

READY = "Go on?"

OUTCOMES = {
    "ok": READY,
    "token_not_found": INCOMPLETE,
    "email_mismatch": INCOMPLETE,
    "token_consumed": USED,
    "token_revoked": WITHDRAWN,
    "token_expired": EXPIRED,
    "interaction_event_mismatch": OTHER_PAGE,
    "user_not_found": UNKNOWN,
}

ASK = "You are signed in as somebody else. Go on as the owner of this link?"


def of_refusal(sqlstate, hint):
    """None where the SQLSTATE is no refusal's."""
    if sqlstate == "OT008":
        return f"We have mailed you already. {hint}"
    return REFUSED.get(sqlstate)


def welcome(user_id):
    return f"Welcome, {user_id}."
