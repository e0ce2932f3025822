"""The state object's form, and what a writer without an answer can tell by it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.errors import IncompatibleStore
from tenure.fencing.objects.state import (
    HERE,
    INLINE_BYTES,
    LINE_BYTES,
    NONE,
    PAST,
    Fate,
    State,
    decode,
    encode,
    fate,
    lifted,
    written,
)
from tenure.fencing.rule import TOKEN_MAX, Fence, Proof

NONCES = st.text("0123456789abcdef", min_size=24, max_size=24)
FENCES = st.builds(
    lambda token, seq, authority: Fence(token, 0, seq, authority),
    st.integers(0, TOKEN_MAX),
    st.integers(0, TOKEN_MAX),
    st.text(max_size=80),
)


@st.composite
def states(draw: st.DrawFn) -> State:
    body = draw(st.one_of(st.none(), st.binary(max_size=200)))
    if body is not None:
        payload, size = HERE, len(body)
    else:
        payload, size = draw(st.one_of(st.just((NONE, 0)), st.tuples(NONCES, st.integers(INLINE_BYTES + 1, 2**40))))
    past = tuple(draw(st.lists(NONCES, max_size=PAST)))
    return State(draw(FENCES), draw(NONCES), past, payload, size, body or b"")


@given(states())
def test_what_is_written_is_read(state: State) -> None:
    assert decode(encode(state), "it") == state


@given(states(), st.data())
def test_what_was_cut_off_is_refused(state: State, data: st.DataObject) -> None:
    body = encode(state)
    with pytest.raises(IncompatibleStore):
        decode(body[: -data.draw(st.integers(1, len(body)))], "it")


def test_a_payload_that_was_cut_off_is_refused() -> None:
    body = encode(State(Fence(7), "1" * 24, (), HERE, 5, b"12345"))
    with pytest.raises(IncompatibleStore):
        decode(body[:-1], "it")


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ('"token": "7"', '"token": 7'),
        ('"token": "7"', '"token": "-7"'),
        ('"token": "7"', '"token": "07"'),
        ('"token": "7"', f'"token": "{2**63}"'),
        ('"seq": "0"', '"seq": null'),
        ('"authority": ""', '"authority": 1'),
        ('"nonce": "11', '"nonce": "'),
        ('"past": []', '"past": ["x"]'),
        ('"payload": "none"', '"payload": "there"'),
        ('"size": 0', '"size": "0"'),
    ],
)
def test_a_line_that_tenure_never_writes_is_refused_and_never_read_as_a_lower_fence(said: str, instead: str) -> None:
    body = encode(State(Fence(7), "1" * 24)).decode()
    assert body.count(said) == 1
    with pytest.raises(IncompatibleStore, match="damaged"):
        decode(body.replace(said, instead).encode(), "it")


@given(st.binary(max_size=300))
def test_what_is_no_state_is_refused(body: bytes) -> None:
    with pytest.raises(IncompatibleStore):
        decode(body, "it")


def test_the_longest_line_fits() -> None:
    fence = Fence(TOKEN_MAX, 0, TOKEN_MAX, "ü" * 512)
    line = encode(State(fence, "0" * 24, ("1" * 24,) * PAST, "2" * 24, 2**40))
    assert len(line) <= LINE_BYTES
    assert decode(line, "it").fence == fence


def test_a_writer_is_told_the_truth_or_that_nobody_knows() -> None:
    """Histories of writes to one object, and a writer whose PUT landed somewhere among them, or did not."""
    draw = random.Random(1)  # noqa: S311 - a test's
    seen = set()
    for _ in range(3000):
        chain: list[State | None] = [None]
        at = draw.randrange(6) if draw.random() < 0.8 else 0
        length = at + draw.randrange(2 * PAST)
        landed = draw.random() < 0.5
        mine: State | None = None
        before: State | None = None
        for n in range(length + 1):
            last = chain[-1]
            proof = Proof("r", n + 1, n + 1)
            if n == at:
                before = last
                mine = written(last, proof, "f" * 24, b"x") if last else lifted(None, proof, "f" * 24)
                if landed:
                    chain.append(mine)
                    continue
            if n > at or not landed or n < at:
                chain.append(lifted(last, proof, f"{n:024x}"))
        assert mine is not None
        now = draw.choice(chain[chain.index(before) :])
        told = fate(before, mine, now)
        seen.add(told)
        has_landed = landed and chain.index(now) > chain.index(before)
        if told is Fate.LANDED:
            assert has_landed
        elif told is Fate.PENDING:
            assert now == before
        elif told is Fate.VOID:
            assert not has_landed
            assert now != before, "it could still land"
        else:
            assert chain.index(now) - chain.index(before) >= PAST
    assert seen == set(Fate)


def test_a_delete_and_a_raise_keep_what_they_must() -> None:
    first = lifted(None, Proof("r", 7, 5, "redis/a"), "1" * 24)
    assert first.fence == Fence(5, 0, 0, "redis/a")
    held = written(first, Proof("r", 7, 5), "2" * 24, b"data")
    gone = written(held, Proof("r", 7, 5), "3" * 24, None)
    assert (gone.payload, gone.size, gone.body) == (NONE, 0, b"")
    assert gone.fence == held.fence == first.fence
    after = lifted(held, Proof("r", 9, 9), "4" * 24)
    assert (after.payload, after.body, after.fence.token) == (HERE, b"data", 9)
    assert after.past == ("2" * 24, "1" * 24)
    apart = written(held, Proof("r", 7, 5), "5" * 24, b"x" * (INLINE_BYTES + 1))
    assert (apart.is_apart, apart.payload, apart.body) == (True, "5" * 24, b"")
