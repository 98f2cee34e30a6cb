"""SQLAlchemy 2: a session is a transaction, so a refusal is a row."""

from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker

import pages

# From PGHOST, PGUSER and so on. Without hide_parameters an error would print the bound token.
engine = create_engine("postgresql+psycopg://", hide_parameters=True, pool_size=4)
Session = sessionmaker(engine)


def page_of(error):
    """The page for a refusal; any other error goes on."""
    page = pages.of_refusal(error.orig.sqlstate, error.orig.diag.message_hint)
    if page is None:
        raise error
    return page


def invite(email, organization_id):
    """The address to mail to, and the link to mail; or what the page says."""
    context = Jsonb({"jitOrganizationIds": [organization_id]})
    try:
        # begin() commits at the end of the block; a session by itself does not.
        with Session.begin() as session:
            return session.execute(
                text(
                    """SELECT t.email, magic_link.compose_magic_link('https://app.example.com/sign-in', t.token, t.email)
                         FROM magic_link.create_one_time_token(:email, context => :context) AS t"""
                ),
                {"email": email, "context": context},
            ).one()
    except DBAPIError as error:
        return page_of(error)


def open_link(token, email, event=None):
    """GET: a mail scanner may open the link, so this writes nothing."""
    check = text("SELECT magic_link.check_one_time_token(:token, :email, :event)")
    try:
        with Session() as session:
            outcome = session.scalar(check, {"token": token, "email": email, "event": event})
    except DBAPIError as error:
        return page_of(error)
    return pages.OUTCOMES[outcome]


def confirm(token, email, session, event=None):
    """POST: the person goes on. `session` is None where nobody is signed in."""
    signed_in_as = session["email"] if session else ""
    decide = text("SELECT decision FROM magic_link.session_switch_decision(:token, :email, :signed_in_as)")
    redeem = text("SELECT outcome, user_id FROM magic_link.try_redeem_one_time_token(:token, :email, :event)")
    try:
        with Session.begin() as transaction:
            bound = {"token": token, "email": email}
            if transaction.scalar(decide, bound | {"signed_in_as": signed_in_as}) == "ask":
                return pages.ASK
            redeemed = transaction.execute(redeem, bound | {"event": event}).one()
    except DBAPIError as error:
        return page_of(error)
    if redeemed.outcome != "ok":
        return pages.OUTCOMES[redeemed.outcome]
    return pages.welcome(redeemed.user_id)
