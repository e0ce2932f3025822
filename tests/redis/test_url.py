import subprocess
import sys
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.config import split_options
from tenure.engines.address import Address, Tls
from tenure.engines.redis.url import CLUSTER, SENTINEL, TCP, UNIX, Choices, Credentials, RedisUrl, parse
from tenure.errors import UsageError

HOST = (Address("h", 6379),)
SENTINELS = (Address("a", 26379), Address("b", 1), Address("c", 26379))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", RedisUrl(TCP, HOST)),
        ("REDIS://H/", RedisUrl(TCP, HOST)),
        ("redis://h:6380/3", RedisUrl(TCP, (Address("h", 6380),), db=3)),
        ("redis://h?db=3&protocol=3", RedisUrl(TCP, HOST, db=3, protocol=3)),
        ("redis://h?plain_key={name}", RedisUrl(TCP, HOST, choices=Choices(plain_key="{name}"))),
        (
            "redis://h?plain_key=lock:%7Bname%7D&acknowledge=2",
            RedisUrl(TCP, HOST, choices=Choices(plain_key="lock:{name}", acknowledge=2)),
        ),
        ("redis://10.0.0.1", RedisUrl(TCP, (Address("10.0.0.1", 6379),))),
        ("redis://[::1]:7000/1", RedisUrl(TCP, (Address("::1", 7000),), db=1)),
        ("redis://[2001:DB8::0]", RedisUrl(TCP, (Address("2001:db8::", 6379),))),
        ("redis://:p@h", RedisUrl(TCP, HOST, login=Credentials(None, "p"))),
        ("redis://u@h", RedisUrl(TCP, HOST, login=Credentials("u"))),
        ("redis://u:p:q@h", RedisUrl(TCP, HOST, login=Credentials("u", "p:q"))),
        ("redis://u%40x:%2F%3F%23%25+%C3%A9@h", RedisUrl(TCP, HOST, login=Credentials("u@x", "/?#%+é"))),
        ("rediss://h", RedisUrl(TCP, HOST, tls=Tls())),
        ("rediss://h?verify=none", RedisUrl(TCP, HOST, tls=Tls(verify=False))),
        (
            "rediss://h?ca=/a%20b&cert=/c&key=/k&verify=full",
            RedisUrl(TCP, HOST, tls=Tls("/a b", "/c", "/k")),
        ),
        ("redis+unix:///run/r.sock", RedisUrl(UNIX, path="/run/r.sock")),
        ("redis+unix:///a%3Fb@c?db=2", RedisUrl(UNIX, path="/a?b@c", db=2)),
        ("redis+unix://u:p@/r.sock", RedisUrl(UNIX, path="/r.sock", login=Credentials("u", "p"))),
        ("redis+sentinel://a,b:1,c/main", RedisUrl(SENTINEL, SENTINELS, service="main")),
        (
            "rediss+sentinel://u:p@a/my%2Fmain/4?sentinel_username=s&sentinel_password=t%40",
            RedisUrl(
                SENTINEL,
                (Address("a", 26379),),
                service="my/main",
                db=4,
                login=Credentials("u", "p"),
                sentinel_login=Credentials("s", "t@"),
                tls=Tls(),
            ),
        ),
        ("redis+cluster://h", RedisUrl(CLUSTER, HOST)),
        ("redis+cluster://h/0?db=0&partitions=7", None),
        ("redis+cluster://h/0?partitions=7", RedisUrl(CLUSTER, HOST, choices=Choices(7))),
        ("rediss+cluster://h,[::1]", RedisUrl(CLUSTER, (*HOST, Address("::1", 6379)), tls=Tls())),
    ],
)
def test_a_url_is_understood_as_a_whole(url: str, expected: RedisUrl | None) -> None:
    if expected is None:
        with pytest.raises(UsageError, match="given twice"):
            parse(url)
    else:
        assert parse(url) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "none of Redis's schemes"),
        ("redis:h", "none of Redis's schemes"),
        ("redis+tcp://h", "none of Redis's schemes"),
        ("unix:///r.sock", "none of Redis's schemes"),
        ("valkey://h", "none of Redis's schemes"),
        ("redis://", "no host"),
        ("redis:///0", "no host"),
        ("redis://u:p@", "no host"),
        ("redis://@h", "part before @ is empty"),
        ("redis://:@h", "part before @ is empty"),
        ("redis://a@b@h", "%40"),
        ("redis://h#1", "%23"),
        ("redis://h:", "a host is"),
        ("redis://h:x", "a host is"),
        ("redis://h:0", "a port"),
        ("redis://h:65536", "a port"),
        ("redis://::1", "a host is"),
        ("redis://[::g]", "a host is"),
        ("redis://[1:2]", "no IPv6 address"),
        ("redis://h h", "a host is"),
        ("redis://h%2E", "a host is"),
        ("redis://h\n", "a host is"),
        ("redis://a,b", "several hosts"),
        ("redis://u%zz@h", "%25"),
        ("redis://u%ff@h", "UTF-8"),
        ("redis://h/x", "database"),
        ("redis://h/-1", "database"),
        ("redis://h/1/", "database"),
        ("redis://h/1/2", "database"),
        ("redis://h//1", "database"),
        ("redis://h/\u0661", "database"),
        ("redis://h/2147483648", "database"),
        ("redis://h/1?db=1", "twice"),
        ("redis://h?db=", "no value"),
        ("redis://h?db", "no value"),
        ("redis://h?db=1&db=1", "twice"),
        ("redis://h?protocol=4", "protocol"),
        ("redis://h?socket_timeout=1", "'socket_timeout'; allowed here are db, protocol"),
        ("redis://h?db=1&", "unknown option ''"),
        ("redis://h?ca=/x", "unknown option 'ca'"),
        ("redis://h?plain_key=lock", "has {name} in it once"),
        ("redis://h?plain_key={name}{name}", "has {name} in it once"),
        ("redis://h?plain_key=" + "x" * 195 + "{name}", "at most 200 bytes"),
        ("redis://h?plain_key={name}%00", "no NUL"),
        ("redis+cluster://h?plain_key={name}", "option plain_key is not for a cluster"),
        ("redis+cluster://h?acknowledge=101", "option acknowledge is a whole number"),
        ("redis://h?acknowledge=-1", "option acknowledge is a whole number"),
        ("redis://h?partitions=1", "unknown option 'partitions'"),
        ("redis://h?sentinel_password=x", "unknown option"),
        ("rediss://h?verify=maybe", "full or none"),
        ("rediss://h?verify=none&ca=/x", "give one of them"),
        ("rediss://h?key=/x", "needs option cert"),
        ("rediss://h?ca=%00", "NUL"),
        ("redis+unix://", "path of a socket"),
        ("redis+unix:///", "path of a socket"),
        ("redis+unix:///x/", "path of a socket"),
        ("redis+unix:///x%00", "path of a socket"),
        ("redis+unix://h/x", "no host"),
        ("rediss+unix:///x", "no TLS"),
        ("redis+sentinel://h", "service"),
        ("redis+sentinel://h/", "service"),
        ("redis+sentinel://h/m/1/2", "service"),
        ("redis+sentinel://h/m/x", "database"),
        ("redis+sentinel://h,,i/m", "a host is"),
        ("redis+sentinel://h,h:26379/m", "twice"),
        ("redis+cluster://h/1", "database 0 only"),
        ("redis+cluster://h?db=1", "database 0 only"),
        ("redis+cluster://h?partitions=0", "1 to 1024"),
        ("redis+cluster://h?partitions=1025", "1 to 1024"),
    ],
)
def test_what_is_no_such_url_is_refused_with_what_is_wrong(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^url: ") as caught:
        parse(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "password", ["sec/ret", "sec?ret", "sec#ret", "sec@ret", "sec%ret", "12?sec&ret=1", "sec:r/et"]
)
@pytest.mark.parametrize("kind", ["redis://{}@h", "redis+sentinel://{}@h/m", "redis+cluster://{}@h", "rediss://{}@h"])
@pytest.mark.parametrize("is_split", [False, True])
def test_a_password_that_is_not_escaped_is_refused_and_not_told(kind: str, password: str, is_split: bool) -> None:
    url = kind.format("user:" + password)
    if is_split:
        url, _ = split_options(url)
    with pytest.raises(UsageError) as caught:
        parse(url)
    assert not any(part in str(caught.value) for part in ("sec", "ret", "12?"))


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_user_and_password_that_are_escaped_are_understood(user: str, password: str) -> None:
    try:
        url = f"redis://{quote(user, safe='')}:{quote(password, safe='')}@h:1/2"
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    assert parse(url) == RedisUrl(TCP, (Address("h", 1),), db=2, login=Credentials(user, password))


@given(st.text(alphabet="redis+nlctu:/@?#[]%&=,.019 ab\n\0", max_size=30).map("redis".__add__))
def test_anything_else_is_a_usage_error(url: str) -> None:
    with suppress(UsageError):
        assert parse(split_options(url)[0]) == parse(url)


def test_neither_repr_nor_what_is_shown_has_a_secret() -> None:
    found = parse("rediss+sentinel://user:hidden1@h/m?sentinel_password=hidden2&sentinel_username=s&key=/k&cert=/c")
    assert "hidden" not in repr(found)
    assert "hidden" not in f"{found} {found.login} {found.sentinel_login!s}"
    assert found.shown == "rediss+sentinel://h:26379/m/0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@[::1]", "redis://[::1]:6379/0"),
        ("rediss+cluster://u:p@a,b", "rediss+cluster://a:6379,b:6379"),
        ("redis+unix://u:p@/s?db=1", "redis+unix:///s?db=1"),
    ],
)
def test_what_is_shown_names_the_servers(url: str, shown: str) -> None:
    assert parse(url).shown == shown


def test_a_url_is_read_without_redis_py() -> None:
    program = "import sys, tenure.engines.redis.url; assert 'redis' not in sys.modules and 'hiredis' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_plus_in_an_option_is_a_plus() -> None:
    """A blank for it is a rule of web forms, and would change a password or a path."""
    url, options = split_options("redis+sentinel://h/m?ttl=3&sentinel_password=a+b%2Bc")
    assert parse(url).sentinel_login == Credentials(None, "a+b+c")
    assert options == {"ttl": "3"}
