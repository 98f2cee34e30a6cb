"""asyncpg: a refusal is an error, and its SQLSTATE says why."""

import json

import asyncpg

import pages

pool = None


async def open_pool():
    # From PGHOST, PGUSER and so on.
    global pool
    pool = await asyncpg.create_pool(min_size=1, max_size=4)


def page_of(error):
    """The page for a refusal; any other error goes on."""
    # The class for OT… is a FatalPostgresError. The connection is fine all the same: do not connect again.
    page = pages.of_refusal(error.sqlstate, error.hint)
    if page is None:
        raise error
    return page


async def invite(email, organization_id):
    """The address to mail to, and the link to mail; or what the page says."""
    # jsonb goes in as text, until set_type_codec says otherwise.
    context = json.dumps({"jitOrganizationIds": [organization_id]})
    try:
        return await pool.fetchrow(
            """SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email)
                 FROM magic_link.create_one_time_token($1, context => $2) AS t""",
            email,
            context,
        )
    except asyncpg.PostgresError as error:
        return page_of(error)


async def open_link(token, email, event=None):
    """GET: a mail scanner may open the link, so this writes nothing."""
    try:
        outcome = await pool.fetchval(
            "SELECT magic_link.check_one_time_token($1, $2, $3)", token, email, event
        )
    except asyncpg.PostgresError as error:
        return page_of(error)
    return pages.OUTCOMES[outcome]


async def confirm(token, email, session, event=None):
    """POST: the person goes on. `session` is None where nobody is signed in."""
    signed_in_as = session["email"] if session else ""
    try:
        decision = await pool.fetchval(
            "SELECT decision FROM magic_link.session_switch_decision($1, $2, $3)",
            token,
            email,
            signed_in_as,
        )
        if decision == "ask":
            return pages.ASK
        user_id = await pool.fetchval(
            "SELECT user_id FROM magic_link.redeem_one_time_token($1, $2, $3)", token, email, event
        )
    except asyncpg.PostgresError as error:
        return page_of(error)
    return pages.welcome(user_id)
