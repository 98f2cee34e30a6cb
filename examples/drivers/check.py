#!/usr/bin/env python3
"""Runs each driver's example against the server of PGHOST: an invitation, and every way in which a link is refused.

usage: check.py NAME COMMAND...   one example, whose command reads a line [function, arguments] and answers one, in JSON
"""

import json
import os
import re
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "python"))
import pages

ADA = "ada@example.com"
EVENT = json.dumps({"interactionEvent": "SignIn"})
USER_ID = re.compile(r"Welcome, [0-9a-f]{8}-[0-9a-f-]{27}\.")

tokens = []


def superuser(statement, **variables):
    """The one value that a statement answers; `:'name'` in it is a variable."""
    settings = [f"--set={name}={value}" for name, value in variables.items()]
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", *settings]
    done = subprocess.run(command, input=statement, text=True, capture_output=True, check=True)
    return done.stdout.strip()


class Example:
    def __init__(self, command):
        environment = os.environ | {"PGUSER": "app_backend"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __getattr__(self, name):
        def call(*arguments):
            self.process.stdin.write(json.dumps([name, arguments]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            assert line, f"the example ended in {name}"
            return json.loads(line)

        return call

    def end(self):
        self.process.stdin.close()
        assert self.process.wait() == 0, "the example failed"


def token_of(link):
    query = parse_qs(urlsplit(link).query)
    tokens.append(query["token"][0])
    return tokens[-1]


def check(example):
    """Yields what was checked, after it was."""
    superuser("TRUNCATE magic_link.one_time_tokens, magic_link.users CASCADE")

    email, link = example.invite(" Ada@Example.com ", "analytical-engines")
    token = token_of(link)
    assert email == ADA and link.startswith("https://app.example.com/sign-in?token=")
    yield "an invitation is a link for the address in normal form"

    assert [example.open_link(token, email) for _ in range(2)] == [pages.READY] * 2
    yield "opening the link changes nothing"

    assert example.confirm(token, "eve@example.com", None) == pages.INCOMPLETE
    assert example.open_link(token, "eve@example.com") == pages.INCOMPLETE
    yield "another address is refused"

    assert example.confirm(token, email, {"email": "eve@example.com"}) == pages.ASK
    assert superuser("SELECT count(*) FROM magic_link.users") == "0"
    yield "whoever is signed in as somebody else is asked first"

    page = example.confirm(token, email, None)
    assert USER_ID.fullmatch(page), page
    assert superuser("SELECT string_agg(organization_role_id, ',' ORDER BY 1) FROM magic_link.organization_membership_roles") == "editor,member"
    yield "the person is in, with the default roles, and it is committed"

    assert example.confirm(token, email, None) == pages.USED
    assert example.open_link(token, email) == pages.USED
    yield "a used token is refused"

    for change, page in [
        ("revoked_at = now()", pages.WITHDRAWN),
        ("created_at = now() - interval '2 hours', expires_at = now() - interval '1 hour'", pages.EXPIRED),
    ]:
        token = token_of(example.invite(ADA, "analytical-engines")[1])
        superuser(f"UPDATE magic_link.one_time_tokens SET {change} WHERE id = magic_link.one_time_token_id(:'token')", token=token)
        assert example.confirm(token, ADA, None) == page
        assert example.open_link(token, ADA) == page
        yield f"refused: {page}"

    for address, event, page in [(ADA, None, pages.OTHER_PAGE), ("new@example.com", "SignIn", pages.UNKNOWN)]:
        token = superuser(
            "SELECT token FROM magic_link.create_one_time_token(:'email', context => :'context')", email=address, context=EVENT
        )
        tokens.append(token)
        assert example.confirm(token, address, None, event) == page
        assert example.open_link(token, address, event) == page
        yield f"refused: {page}"

    for token, address in [("nonsense", ADA), (tokens[0], "no address")]:
        assert example.confirm(token, address, None) == pages.INCOMPLETE
        assert example.open_link(token, address) == pages.INCOMPLETE
    yield "what is no token, and what is no address, is refused"


def check_limit(example):
    token_of(example.invite("bob@example.com", "analytical-engines")[1])
    page = example.invite("bob@example.com", "analytical-engines")
    assert re.fullmatch(r"We have mailed you already\. Try again in \d+ seconds\.", page), page


def main(name, command):
    checked = 0
    try:
        example = Example(command)
        for what in check(example):
            checked += 1
        example.end()
        # For new connections.
        superuser("LOAD 'magic_link'; ALTER ROLE app_backend SET magic_link.max_active_tokens = 1")
        example = Example(command)
        check_limit(example)
        example.end()
        with open(os.environ["MAGIC_LINK_SERVER_LOG"], encoding="utf-8") as log:
            text = log.read()
        assert not any(token in text for token in tokens), "the server's log has a token"
    except (AssertionError, ValueError, TypeError, subprocess.CalledProcessError) as error:
        print(f"not ok - {name}, after {checked} checks: {error!r}")
        raise
    finally:
        superuser("ALTER ROLE app_backend RESET magic_link.max_active_tokens")
    print(f"ok - {name}: {checked + 1} checks")


main(sys.argv[1], sys.argv[2:])
