"""psycopg 3: a refusal is an error, and its SQLSTATE says why."""

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

import pages

# From PGHOST, PGUSER and so on. The block of a connection is a transaction: it commits at its end.
pool = ConnectionPool(min_size=1, max_size=4, open=False)


def page_of(error):
    """The page for a refusal; any other error goes on."""
    page = pages.of_refusal(error.sqlstate, error.diag.message_hint)
    if page is None:
        raise error
    return page


def invite(email, organization_id):
    """The address to mail to, and the link to mail; or what the page says."""
    context = Jsonb({"jitOrganizationIds": [organization_id]})
    try:
        with pool.connection() as connection:
            return connection.execute(
                """SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email)
                     FROM magic_link.create_one_time_token(%s, context => %s) AS t""",
                (email, context),
            ).fetchone()
    except psycopg.Error as error:
        return page_of(error)


def open_link(token, email, event=None):
    """GET: a mail scanner may open the link, so this writes nothing."""
    try:
        with pool.connection() as connection:
            (outcome,) = connection.execute(
                "SELECT magic_link.check_one_time_token(%s, %s, %s)", (token, email, event)
            ).fetchone()
    except psycopg.Error as error:
        return page_of(error)
    return pages.OUTCOMES[outcome]


def confirm(token, email, session, event=None):
    """POST: the person goes on. `session` is None where nobody is signed in."""
    signed_in_as = session["email"] if session else ""
    try:
        with pool.connection() as connection:
            (decision,) = connection.execute(
                "SELECT decision FROM magic_link.session_switch_decision(%s, %s, %s)",
                (token, email, signed_in_as),
            ).fetchone()
            if decision == "ask":
                return pages.ASK
            (user_id,) = connection.execute(
                "SELECT user_id FROM magic_link.redeem_one_time_token(%s, %s, %s)",
                (token, email, event),
            ).fetchone()
    except psycopg.Error as error:
        return page_of(error)
    return pages.welcome(user_id)
