// postgres.js: a refusal is an error, and its code is the SQLSTATE. What stands in ${} is bound.
import postgres from "postgres";
import { ask, outcomes, pageOf, welcome } from "./pages.mjs";

// From PGHOST, PGUSER and so on.
export const sql = postgres({ max: 4 });

// The address to mail to, and the link to mail; or what the page says.
export async function invite(email, organizationId) {
  const context = sql.json({ jitOrganizationIds: [organizationId] });
  try {
    const [row] = await sql`
      SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email) AS link
        FROM magic_link.create_one_time_token(${email}, context => ${context}) AS t`;
    return [row.email, row.link];
  } catch (error) {
    return pageOf(error);
  }
}

// GET: a mail scanner may open the link, so this writes nothing.
export async function openLink(token, email, event = null) {
  try {
    const [row] = await sql`SELECT magic_link.check_one_time_token(${token}, ${email}, ${event}) AS outcome`;
    return outcomes[row.outcome];
  } catch (error) {
    return pageOf(error);
  }
}

// POST: the person goes on.
export async function confirm(token, email, session, event = null) {
  const signedInAs = session?.email ?? "";
  try {
    const [{ decision }] = await sql`
      SELECT decision FROM magic_link.session_switch_decision(${token}, ${email}, ${signedInAs})`;
    if (decision === "ask") return ask;
    const [row] = await sql`SELECT user_id FROM magic_link.redeem_one_time_token(${token}, ${email}, ${event})`;
    return welcome(row.user_id);
  } catch (error) {
    return pageOf(error);
  }
}
