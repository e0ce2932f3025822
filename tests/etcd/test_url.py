"""A URL is understood as a whole or refused, and nothing of it is repeated."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tenure import UsageError
from tenure.engines import connect
from tenure.engines.address import Address, Tls
from tenure.engines.etcd.url import Credentials, EtcdUrl, parse

NODE = (Address("h", 2379),)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("etcd://h", EtcdUrl(NODE)),
        ("ETCD://H/", EtcdUrl(NODE)),
        ("etcd://h:1/a/b-c", EtcdUrl((Address("h", 1),), "a/b-c")),
        ("etcd://a,b:1,[::1]:2", EtcdUrl((Address("a", 2379), Address("b", 1), Address("::1", 2)))),
        ("etcd://u%40x:p%2F%3F@h", EtcdUrl(NODE, login=Credentials("u@x", "p/?"))),
        ("etcds://h", EtcdUrl(NODE, tls=Tls())),
        ("etcds://h?verify=none", EtcdUrl(NODE, tls=Tls(verify=False))),
        ("etcds://h?ca=/a%20b&cert=/c&key=/k", EtcdUrl(NODE, tls=Tls("/a b", "/c", "/k"))),
    ],
)
def test_what_a_url_means(url: str, expected: EtcdUrl) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "etcd://",
        "etcd:///root",
        "etcd://h,h",
        "etcd://h,",
        "etcd://h:0",
        "etcd://h:70000",
        "etcd://[::g]",
        "etcd://h/a//b",
        "etcd://h/a b",
        f"etcd://h/{'x' * 65}",
        "etcd://SECRET@h",
        "etcd://:SECRET@h",
        "etcd://u:SECRET@x@h",
        "etcd://u:SECRET/x@h",
        "etcd://u:SECRET#@h",
        "etcd://u:SECRET%zz@h",
        "etcd://h?ca=/SECRET",
        "etcds://h?ca=",
        "etcds://h?ca=/a&ca=/b",
        "etcds://h?key=/k",
        "etcds://h?verify=SECRET",
        "etcds://h?verify=none&ca=/a",
        "etcds://h?magic=SECRET",
        "etcds://u:SECRET?x@h",
    ],
)
def test_what_is_refused_and_says_no_secret(url: str) -> None:
    with pytest.raises(UsageError, match=r"^url: ") as raised:
        parse(url)
    assert "SECRET" not in str(raised.value)


def test_a_password_is_never_shown() -> None:
    parsed = parse("etcd://user:SECRET@h")
    assert "SECRET" not in repr(parsed)
    assert "SECRET" not in parsed.shown


def test_connecting_imports_no_other_engine_and_no_client_library() -> None:
    code = (
        "import sys; from tenure.engines import connect; connect('etcd://h', 'n');"
        "print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'google', 'redis', 'hiredis', 'asyncio_') "
        "or 'engines.redis' in m or 'engines.sqlite' in m])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_making_an_engine_touches_nothing() -> None:
    assert connect("etcd://no.such.host.invalid", "n").kind == "etcd"
