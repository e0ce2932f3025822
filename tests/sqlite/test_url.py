import os
import sys

import pytest

from tenure.engines.sqlite.url import default_path, parse
from tenure.errors import UsageError


@pytest.mark.parametrize(
    ("url", "path", "shared"),
    [
        ("sqlite://", None, None),
        ("sqlite:///var/lib/x.db", "/var/lib/x.db", None),
        ("SQLite:///var/lib/x.db", "/var/lib/x.db", None),
        ("sqlite:////var/lib/x.db", "/var/lib/x.db", None),
        ("sqlite:///x.db?", "/x.db", None),
        ("sqlite:///a%20b%3Fc%23.db", "/a b?c#.db", None),
        ("sqlite:///a+b.db", "/a+b.db", None),
        ("sqlite:///x.db?shared=www%2Ddata", "/x.db", "www-data"),
        ("sqlite:///%C3%A9.db", "/é.db", None),
        ("sqlite:///a:b@c.db", "/a:b@c.db", None),
    ],
)
def test_a_url_names_an_absolute_path(url: str, path: str | None, shared: str | None) -> None:
    found = parse(url)
    assert (found.path, found.shared) == (path, shared)
    assert dict(found.options) == ({} if shared is None else {"shared": shared})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "begin with sqlite://"),
        ("sqlite:x.db", "begin with sqlite://"),
        ("sqlite:/x.db", "begin with sqlite://"),
        ("redis://x", "begin with sqlite://"),
        ("sqlite://host/x.db", "no host"),
        ("sqlite://x.db", "no host"),
        ("sqlite:///", "path is empty"),
        ("sqlite:////", "path is empty"),
        ("sqlite:///dir/", "names a folder"),
        ("sqlite:///./x.db", "relative"),
        ("sqlite:///../x.db", "relative"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///x.db#1", "%23"),
        ("sqlite:///x%00.db", "NUL"),
        ("sqlite:///x%zz.db", "%25"),
        ("sqlite:///100%", "%25"),
        ("sqlite:///x.db?ttl=30", "shared=GROUP"),
        ("sqlite:///x.db?shared", "shared=GROUP"),
        ("sqlite:///x.db?shared=", "shared=GROUP"),
        ("sqlite:///x.db?shared=a&shared=b", "twice"),
        ("sqlite:///x.db?shared=a&", "unknown option ''"),
        ("sqlite:///x.db?shared=%00", "NUL"),
        ("sqlite://?shared=a", "needs a path"),
    ],
)
def test_what_is_no_such_url_is_refused_with_what_is_allowed(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^url: ") as caught:
        parse(url)
    assert says in str(caught.value)


def test_a_refusal_never_repeats_a_password() -> None:
    with pytest.raises(UsageError) as caught:
        parse("sqlite://user:geheim@host/x.db")
    assert "geheim" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")
def test_the_default_file_lies_in_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_path() == "/home/somebody/.local/state/tenure/locks.db"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_path() == "/var/state/tenure/locks.db"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert default_path() == "/home/somebody/.local/state/tenure/locks.db"


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")
def test_a_home_that_cannot_be_found_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="name a file"):
        default_path()
