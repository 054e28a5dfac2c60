from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.protocol.errors import InviteError
from jupyter_swarm.protocol.invites import (
    Invite,
    hash_secret,
    is_secret,
    new_secret,
    page_of,
    parse_invite,
    parse_invite_to_join,
)

SECRET = new_secret()
LINK = Invite("https://hub.example.org:8443/user/ann", "cs101-7f3a", SECRET).link
sessions = st.from_regex(re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII), fullmatch=True)
servers = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["localhost:8888", "10.0.0.7", "[::1]:8888", "hub.example.org", "xn--bcher-kva.example"]),
    st.sampled_from(["", "/user/ann", "/hub/swarm/join/x", "/swarm/watch/x", "/user/ann%40uni.edu"]),
)


@given(servers, sessions, st.sampled_from(["join", "watch"]))
def test_an_invite_is_read_as_it_was_written(server, session, page):
    invite = Invite(server, session, SECRET, page)
    assert parse_invite(invite.link) == invite


@given(servers, sessions)
def test_a_link_for_watching_is_none_for_joining(server, session):
    joining = Invite(server, session, SECRET, page_of("peer"))
    assert parse_invite_to_join(f" {joining.link}\n") == joining
    with pytest.raises(InviteError, match="lets you watch") as caught:
        parse_invite_to_join(Invite(server, session, SECRET, page_of("viewer")).link)
    assert "ask whoever runs the session for a peer's invite" in caught.value.todo
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "pasted",
    [
        f"  {LINK}\n",
        f"\t{LINK}\r\n\r\n",
        f'"{LINK}"',
        f"'{LINK}'",
        f"\u201c{LINK}\u201d",
        f"<{LINK}>",
        f"({LINK}).",
        f"{LINK},",
        f"`{LINK}`",
        f"\u200b{LINK}\u200b",
        LINK[:40] + "\n" + LINK[40:],
        LINK[:-10] + "\r\n  " + LINK[-10:],
        LINK.replace("https", "HTTPS"),
        LINK.replace("#", "/#"),
        LINK.replace("#", "?from=mail#"),
    ],
    ids=range(15),
)
def test_a_link_is_read_as_people_paste_it(pasted):
    assert parse_invite(pasted).secret == SECRET
    assert parse_invite(pasted).server.endswith("hub.example.org:8443/user/ann")


@pytest.mark.parametrize(
    ("pasted", "why"),
    [
        ("", "It does not begin with http"),
        ("cs101-7f3a", "It does not begin with http"),
        (f"ftp://host/swarm/join/a#{SECRET}", "It does not begin with http"),
        (f"https:///swarm/join/a#{SECRET}", "It does not begin with http"),
        (f"http://[::1/swarm/join/a#{SECRET}", "cannot be right"),
        (f"http://host:99999/swarm/join/a#{SECRET}", "cannot be right"),
        (f"http://:8888/swarm/join/a#{SECRET}", "It does not begin with http"),
        (f"https://host:8888/tree#{SECRET}", "no /swarm/join/SESSION or /swarm/watch/SESSION"),
        (f"https://host:8888/swarm/join/#{SECRET}", "no /swarm/join/SESSION or /swarm/watch/SESSION"),
        (f"https://host:8888/swarm/join/CS 101#{SECRET}", "no /swarm/join/SESSION or /swarm/watch/SESSION"),
        ("https://host:8888/swarm/join/cs101", "Nothing follows the #"),
        ("https://host:8888/swarm/join/cs101#", "Nothing follows the #"),
        (LINK[:-1], "incomplete or mistyped"),
        (LINK[:-20], "incomplete or mistyped"),
        (LINK + "A", "incomplete or mistyped"),
        ("https://host/swarm/join/a#" + "\ud800" * 36, "incomplete or mistyped"),
        ("https://host/swarm/join/a#" + "ä" * 36, "incomplete or mistyped"),
    ],
    ids=range(17),
)
def test_what_is_no_link_says_why_and_what_to_do(pasted, why):
    with pytest.raises(InviteError, match=re.escape(why)) as caught:
        parse_invite(pasted)
    assert "paste it again" in caught.value.todo
    assert SECRET not in str(caught.value)


@given(st.integers(0, 35), st.characters(categories=["L", "N"], exclude_characters=SECRET))
def test_a_typing_error_is_noticed(at, typed):
    assert not is_secret(SECRET[:at] + typed + SECRET[at + 1 :])


@given(st.integers(0, 34))
def test_letters_that_changed_places_are_noticed(at):
    swapped = SECRET[:at] + SECRET[at + 1] + SECRET[at] + SECRET[at + 2 :]
    assert is_secret(swapped) == (swapped == SECRET)


@given(st.one_of(st.text(max_size=200), st.text(max_size=50).map(lambda tail: LINK + tail)))
def test_any_text_is_an_invite_or_our_error(text):
    with contextlib.suppress(InviteError):
        assert is_secret(parse_invite(text).secret)


def test_secrets_differ_and_are_never_shown():
    assert new_secret() != new_secret()
    assert is_secret(SECRET)
    assert re.fullmatch(r"[A-Za-z0-9_-]{36}", SECRET)
    assert SECRET not in repr(parse_invite(LINK))
    assert SECRET not in hash_secret(SECRET)
    assert len(hash_secret(SECRET)) == 64
