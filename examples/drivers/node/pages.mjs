// What the page says, by the SQLSTATE of a refusal, or by its outcome.
const incomplete = "This link is incomplete. Open it from the mail again.";
const used = "This link was used already. If it was not you, tell us.";
const withdrawn = "This link is no longer valid. Ask for a new one.";
const expired = "This link has expired. Ask for a new one.";
const otherPage = "This link is for something else. Open it from the mail again.";
const unknown = "No account has this address. Register first.";

export const refused = {
  OT001: incomplete,
  OT002: incomplete,
  OT003: used,
  OT004: withdrawn,
  OT005: expired,
  OT006: otherPage,
  OT007: unknown,
  "22023": incomplete, // the address is no address
};

export const outcomes = {
  ok: "Go on?",
  token_not_found: incomplete,
  email_mismatch: incomplete,
  token_consumed: used,
  token_revoked: withdrawn,
  token_expired: expired,
  interaction_event_mismatch: otherPage,
  user_not_found: unknown,
};

export const ask = "You are signed in as somebody else. Go on as the owner of this link?";
export const welcome = (userId) => `Welcome, ${userId}.`;
export const mailedAlready = (hint) => `We have mailed you already. ${hint}`;

// The page for a driver's error, whose `code` is the SQLSTATE. What is no refusal is thrown on.
export function pageOf(error) {
  if (error.code === "OT008") return mailedAlready(error.hint);
  if (error.code in refused) return refused[error.code];
  throw error;
}
