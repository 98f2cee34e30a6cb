// node-postgres: a refusal is an error, and its code is the SQLSTATE.
import pg from "pg";
import { ask, outcomes, pageOf, welcome } from "./pages.mjs";

// From PGHOST, PGUSER and so on.
export const pool = new pg.Pool({ max: 4 });

// The address to mail to, and the link to mail; or what the page says.
export async function invite(email, organizationId) {
  try {
    const { rows } = await pool.query(
      `SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email) AS link
         FROM magic_link.create_one_time_token($1, context => $2) AS t`,
      [email, { jitOrganizationIds: [organizationId] }],
    );
    return [rows[0].email, rows[0].link];
  } catch (error) {
    return pageOf(error);
  }
}

// GET: a mail scanner may open the link, so this writes nothing.
export async function openLink(token, email, event = null) {
  try {
    const { rows } = await pool.query("SELECT magic_link.check_one_time_token($1, $2, $3) AS outcome", [token, email, event]);
    return outcomes[rows[0].outcome];
  } catch (error) {
    return pageOf(error);
  }
}

// POST: the person goes on.
export async function confirm(token, email, session, event = null) {
  try {
    const decided = await pool.query("SELECT decision FROM magic_link.session_switch_decision($1, $2, $3)", [
      token,
      email,
      session?.email ?? "",
    ]);
    if (decided.rows[0].decision === "ask") return ask;
    const redeemed = await pool.query("SELECT user_id FROM magic_link.redeem_one_time_token($1, $2, $3)", [token, email, event]);
    return welcome(redeemed.rows[0].user_id);
  } catch (error) {
    return pageOf(error);
  }
}
