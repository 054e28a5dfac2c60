"""Addresses as people write them, and from where they can be reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_swarm.protocol.addresses import base_of, is_loopback, reach_of
from jupyter_swarm.protocol.errors import LinkError


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost:8888", True), ("127.0.0.1", True), ("[::1]:8888", True), ("a.localhost", True),
        ("0.0.0.0:80", True), ("[::ffff:127.0.0.1]:1", True), ("10.0.0.1:80", False), ("lab.example.org", False),
        ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_what_is_reached_on_its_own_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("url", "reach"),
    [
        ("http://localhost:8888/user/ann", "machine"),
        ("http://[::1]:8888", "machine"),
        ("http://0.0.0.0:8888", "machine"),
        ("http://192.168.1.7:8888/lab", "network"),
        ("http://[fe80::1%25eth0]:8888", "network"),
        ("http://[fd00::7]/", "network"),
        ("http://100.100.1.2:8888", "network"),
        ("http://lab-pc-7:8888", "network"),
        ("http://ann-laptop.local:8888", "network"),
        ("https://8.8.8.8", "internet"),
        ("https://hub.example.org/user/ann/", "internet"),
        ("https://[2606:4700::1111]/x", "internet"),
    ],
)
def test_from_where_an_address_can_be_reached_by_its_looks(url: str, reach: str) -> None:
    assert reach_of(url) == reach


@given(
    st.from_regex(r"https?://[a-z0-9.-]{1,30}(:[0-9]{1,4})?(/[a-z]{0,8}){0,3}(\?token=[a-z0-9]{0,9})?", fullmatch=True)
)
def test_any_address_has_a_base_and_a_reach_or_is_refused_in_words(url: str) -> None:
    try:
        base = base_of(url)
    except LinkError:
        return
    assert "token" not in base
    assert not base.endswith("/")
    assert base_of(base + "/lab?token=abc") == base
    assert reach_of(base) in ("machine", "network", "internet")


@pytest.mark.parametrize(
    "printed",
    [
        "http://host:8888/user/ann/lab?token=abc",
        "http://host:8888/user/ann/",
        "http://me:key@host:8888/user/ann",
        " http://host:8888/user/ann/ \n",
    ],
)
def test_the_address_that_jupyter_prints_leads_to_its_server(printed: str) -> None:
    assert base_of(printed) == "http://host:8888/user/ann"


@pytest.mark.parametrize(
    "text",
    [
        "localhost:8888", "http://[::1", "ftp://host/", "http://", "http://host:0/", "javascript:alert(1)//http://host/",
        "http://ho st/", "http://host/\n#", "http://host/'; import os; '", 'http://host/"><script>', "http://host\\@x/",
        "http://host/" + "a" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(LinkError, match="not the address of a server"):
        base_of(text)
