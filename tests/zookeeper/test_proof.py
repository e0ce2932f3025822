"""Pure parts: from when a deadline counts (C3), what a listing says, how a URL is understood, the wire format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure import UsageError
from tenure.engines.address import Address
from tenure.engines.zookeeper import jute
from tenure.engines.zookeeper.layout import Layout, ahead, claim_node, rows
from tenure.engines.zookeeper.seat import Proof
from tenure.engines.zookeeper.url import Login, parse
from tenure.model import EXCLUSIVE, SHARED, Instant, Kind, Mode

APART = 1.0


def proved(*beats: float, connected: float = 0.0) -> list[float]:
    proof = Proof()
    return [proof.answered(Instant(beat), Instant(connected), APART) for beat in beats]


# -- the rule ---------------------------------------------------------------------------------------------------------


def test_a_deadline_counts_from_the_write_two_before_the_last_answered() -> None:
    assert proved(5, 10, 15, 20, 25) == [0, 0, 5, 10, 15]


def test_writes_that_are_close_together_count_as_one() -> None:
    """A follower passes on what it heard every half tick: two writes within one may have been passed on together."""
    assert proved(5, 5.1, 5.2, 5.9, 6, 7) == [0, 0, 0, 0, 0, 5]


def test_a_connection_that_was_made_anew_counts_from_its_first_message() -> None:
    proof = Proof()
    for beat in (5, 10, 15):
        proof.answered(Instant(beat), Instant(0), APART)
    assert float(proof.answered(Instant(40), Instant(39), APART)) == 39
    assert float(proof.answered(Instant(45), Instant(39), APART)) == 39
    assert float(proof.answered(Instant(50), Instant(39), APART)) == 40


@given(st.lists(st.floats(0.01, 20), min_size=1, max_size=30), st.floats(0.1, 5))
def test_what_is_proved_never_falls_and_is_two_spaced_writes_ago_at_least(gaps: list[float], apart: float) -> None:
    proof, now, last = Proof(), 0.0, 0.0
    for gap in gaps:
        now += gap
        since = proof.answered(Instant(now), Instant(0), apart)
        assert last <= since <= max(0.0, now - 2 * apart + 1e-9)
        last = since


# -- names of nodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [EXCLUSIVE, SHARED, Mode(Kind.PERMITS, 3, 1_000_000)])
@pytest.mark.parametrize("sequence", ["0000000000", "2147483647", "-2147483648"])
def test_a_claims_node_says_its_mode_its_session_its_number_and_its_place(mode: Mode, sequence: str) -> None:
    node = claim_node(mode, "Ab_-9", 17) + sequence
    assert [row[1:] for row in rows([node])] == [(mode, "Ab_-9", 17, int(sequence))]


def test_a_wrapped_sequence_is_in_front_of_what_came_after_it() -> None:
    nodes = [f"e.{name}.1~{number}" for name, number in (("c", -(2**31)), ("a", 2**31 - 2), ("b", 2**31 - 1))]
    assert "".join(row.session for row in rows(nodes)) == "abc"
    # The mutant, which compares the numbers alone, puts the oldest last.
    assert next(row.session for row in sorted(rows(nodes), key=lambda row: row.number)) == "c"


@given(st.lists(st.tuples(st.sampled_from("es"), st.booleans()), min_size=1, max_size=12), st.integers(0, 3), st.data())
def test_the_nearest_in_front_is_that_of_the_whole_queue(modes: list[Any], start: int, data: Any) -> None:
    first = [0, 2**31 - 4, -(2**31), 9_999_990][start]
    nodes = []
    for at, (mode, is_stranger) in enumerate(modes):
        sequence = (first + at + 2**31) % 2**32 - 2**31
        text = f"{sequence:010d}" if sequence >= 0 else str(sequence)
        nodes.append(f"stranger~{text}" if is_stranger and at else f"{mode}.s{at}.1~{text}")
    own = data.draw(st.sampled_from([node for node in nodes if not node.startswith("stranger")]))
    shuffled = data.draw(st.permutations(nodes))
    whole = ahead(shuffled, own, SHARED)
    nearest = ahead(shuffled, own, EXCLUSIVE)
    assert whole is not None
    assert nearest is not None
    assert nearest[-1:] == whole[-1:]
    assert ahead(shuffled, "e.gone.1~0000000000", EXCLUSIVE) is None


@pytest.mark.parametrize(
    "node", ["", "e", "e.s.1", "x.s.1~0000000000", "e.s.1~", "e.s/1~0000000000", "p3.s.1~0000000001"]
)
def test_other_nodes_are_no_claims(node: str) -> None:
    assert rows([node]) == []


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=100))
def test_any_name_is_a_node_and_comes_back(name: str) -> None:
    layout = Layout("", "space")
    path = layout.queue(f"space:{name}")
    node = path.rpartition("/")[2]
    assert path == f"{layout.queues}/{node}"
    assert node.isascii()
    assert node not in (".", "..")
    assert layout.name(node) == f"space:{name}"


# -- URLs -------------------------------------------------------------------------------------------------------------


def test_a_url_says_which_servers_where_and_as_whom() -> None:
    found = parse("zookeeper://bob:a%40b@ZK1,zk2:2182,[::1]:9/apps/locks?tick=0.5")
    assert found.hosts == (Address("zk1", 2181), Address("zk2", 2182), Address("::1", 9))
    assert (found.chroot, found.login, found.tick, found.tls) == ("/apps/locks", Login("bob", "a@b"), 0.5, None)
    assert found.shown == "zookeeper://zk1:2181,zk2:2182,[::1]:9/apps/locks"
    assert "a@b" not in repr(found)
    assert parse("zookeepers://host").hosts == (Address("host", 2281),)
    assert parse("zookeeper://host/").chroot == ""


BAD = [
    "zookeeper://",
    "zookeeper:///chroot",
    "zookeeper://h,h",
    "zookeeper://h:0",
    "zookeeper://h:99999",
    "zookeeper://h#f",
    "zookeeper://u@h",
    "zookeeper://u:@h",
    "zookeeper://u:p@x@h",
    "zookeeper://h/a//b",
    "zookeeper://h/a/../b",
    "zookeeper://h/%00",
    "zookeeper://h/%zz",
    "zookeeper://h?tick=0",
    "zookeeper://h?tick=nan",
    "zookeeper://h?tick=2&tick=3",
    "zookeeper://h?ca=/x",
    "zookeeper://h?sasl=PLAIN",
    "zookeeper://h?sasl=DIGEST-MD5",
    "zookeepers://h?verify=some",
    "zookeepers://h?verify=none&ca=/x",
    "zookeepers://h?key=/x",
]


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_is_wrong_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="url"):
        parse(url)


# -- the wire ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
def test_messages_are_cut_where_they_end_however_they_arrive(messages: list[bytes], data: Any) -> None:
    stream = b"".join(len(message).to_bytes(4, "big") + message for message in messages)
    received, found, at = bytearray(), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        received += stream[at : at + step]
        at += step
        found += jute.frames(received)
    assert found == messages
    assert not received


def test_the_part_of_a_multi_that_is_at_fault_is_told() -> None:
    refusals = [jute.Refusal(0), jute.Refusal(jute.NO_NODE), jute.Refusal(jute.RUNTIME_INCONSISTENCY)]
    assert jute.refused(refusals) == (1, jute.NO_NODE)
    assert jute.refused([None, None]) == (-1, jute.OK)
