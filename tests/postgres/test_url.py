"""What a URL of PostgreSQL means, and that no message repeats a secret."""

from __future__ import annotations

import pytest

from tenure import Client, UsageError
from tenure.config import shown
from tenure.engines.postgres.url import parse

SECRET = "s3cr3t"  # noqa: S105 - a test's


def test_what_is_libpqs_is_passed_on_and_what_is_ours_is_not() -> None:
    parsed = parse(
        "postgresql://app:pw@db1,db2:5433/locks?sslmode=verify-full&schema=mine&target_session_attrs=read-write"
        "&synchronous_commit=off&poll=0.5&create=yes&listen_url=postgresql%3A%2F%2Fdirect%2Flocks"
    )
    assert parsed.conninfo == (
        "postgresql://app:pw@db1,db2:5433/locks?sslmode=verify-full&target_session_attrs=read-write"
    )
    assert (parsed.schema, parsed.commits, parsed.poll_s, parsed.create) == ("mine", "off", 0.5, True)
    assert parsed.listen_conninfo == "postgresql://direct/locks"
    assert parsed.shown == "postgresql://db1,db2:5433/locks"
    assert "pw" not in repr(parsed)


def test_the_defaults() -> None:
    parsed = parse("postgresql:///locks?host=/run/postgresql")
    assert (parsed.schema, parsed.commits, parsed.create, parsed.listen_conninfo) == ("tenure", "", False, None)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://h", "a database must be named"),
        ("postgresql://h/", "a database must be named"),
        ("postgresql://h/a/b", "a database must be named"),
        ("postgresql:///db", "no host is named"),
        ("postgres://h/db", "unknown engine"),
        (f"postgresql://u:{SECRET}@x@h/db", "two @"),
        (f"postgresql://u:{SECRET}?x@h/db", "database must be named|two @|unknown options"),
        (f"postgresql://u:a/{SECRET}@h/db", "an @ after the host"),
        (f"postgresql://u:{SECRET}#x@h/db", "fragment"),
        (f"postgresql://u:%zz{SECRET}@h/db", "begins no escape"),
        ("postgresql://h/db?sslmod=require", "unknown option 'sslmod'"),
        ("postgresql://h/db?options=-c%20x", "unknown option 'options'"),
        ("postgresql://h/db?schema=a&schema=b", "given twice"),
        ("postgresql://h/db?schema=", "has no value"),
        ("postgresql://h/db?schema=a%22b", "option schema"),
        ("postgresql://h/db?schema=pg_x", "option schema"),
        ("postgresql://h/db?create=maybe", "yes or no"),
        ("postgresql://h/db?synchronous_commit=perhaps", "synchronous_commit"),
        ("postgresql://h/db?poll=0", "option poll"),
        (f"postgresql://h/db?listen_url=postgresql%3A%2F%2Fu:{SECRET}@x@h%2Fdb", "two @"),
        (f"postgresql://u:{SECRET}@[h/db", "libpq does not understand"),
    ],
)
def test_a_wrong_url_is_refused_and_repeats_no_secret(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Client(url)
    assert SECRET not in str(caught.value)


def test_a_password_in_listen_url_is_not_shown() -> None:
    url = f"postgresql://u:{SECRET}@h/db?listen_url=postgresql://u:{SECRET}@h2/db&sslpassword={SECRET}"
    assert SECRET not in shown(url)
    assert SECRET not in repr(Client(url))
