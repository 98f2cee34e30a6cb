"""Django 5: a request is a transaction (ATOMIC_REQUESTS), so a refusal is a row."""

import os

import django
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "ATOMIC_REQUESTS": True,
            # Without server_side_binding Django writes the token into the statement's text.
            "OPTIONS": {"server_side_binding": True, "pool": {"min_size": 1, "max_size": 4}},
        }
    }
)
django.setup()

from django.db import Error, connection, transaction  # noqa: E402
from psycopg.types.json import Jsonb  # noqa: E402

import pages  # noqa: E402


def page_of(error):
    """The page for a refusal; any other error goes on."""
    cause = error.__cause__
    page = pages.of_refusal(cause.sqlstate, cause.diag.message_hint)
    if page is None:
        raise error
    return page


def one_row(statement, parameters):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchone()


def invite(email, organization_id):
    """The address to mail to, and the link to mail; or what the page says."""
    context = Jsonb({"jitOrganizationIds": [organization_id]})
    try:
        with transaction.atomic():
            return one_row(
                """SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email)
                     FROM magic_link.create_one_time_token(%s, context => %s) AS t""",
                (email, context),
            )
    except Error as error:
        return page_of(error)


def open_link(token, email, event=None):
    """GET: a mail scanner may open the link, so this writes nothing."""
    try:
        with transaction.atomic():
            (outcome,) = one_row("SELECT magic_link.check_one_time_token(%s, %s, %s)", (token, email, event))
    except Error as error:
        return page_of(error)
    return pages.OUTCOMES[outcome]


def confirm(token, email, session, event=None):
    """POST: the person goes on. `session` is None where nobody is signed in."""
    signed_in_as = session["email"] if session else ""
    try:
        with transaction.atomic():
            (decision,) = one_row(
                "SELECT decision FROM magic_link.session_switch_decision(%s, %s, %s)",
                (token, email, signed_in_as),
            )
            if decision == "ask":
                return pages.ASK
            outcome, user_id = one_row(
                "SELECT outcome, user_id FROM magic_link.try_redeem_one_time_token(%s, %s, %s)",
                (token, email, event),
            )
    except Error as error:
        return page_of(error)
    return pages.welcome(user_id) if outcome == "ok" else pages.OUTCOMES[outcome]
