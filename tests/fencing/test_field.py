"""The field `Fencing-Token`: what one side writes the other reads, and nothing else is taken for a token."""

from __future__ import annotations

import re
from typing import Any

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tenure
from tenure import fencing
from tenure.errors import MalformedToken, MissingToken, UsageError
from tenure.fencing.rule import TOKEN_MAX, Proof
from tenure.fencing.web.field import FIELD_BYTES, KEY, NAME, field, proof_of, shown
from tenure.fencing.web.problems import KINDS, PROBLEM_BYTES, Kind, is_problem, problem, refusal_in

CONTROL = st.characters(exclude_categories=["Cs", "Cc"])
TOKENS = st.integers(1, TOKEN_MAX)


@st.composite
def proofs(draw: st.DrawFn) -> Proof:
    token = draw(TOKENS)
    floor = draw(st.one_of(st.just(token), st.integers(1, token)))
    resource = draw(st.text(CONTROL, min_size=1, max_size=100))
    seq = draw(st.integers(0, TOKEN_MAX)) if floor == token else 0
    return Proof(resource, token, floor, draw(st.text(CONTROL, max_size=100)), seq)


@given(proofs())
@example(Proof('a "b" \\ c', 1795372291532495, 1795372291532495))
@example(Proof("x" * 512, TOKEN_MAX, TOKEN_MAX, "y" * 1024, TOKEN_MAX))
@example(Proof("ü" * 256, TOKEN_MAX, TOKEN_MAX, "€" * 341, TOKEN_MAX))
def test_what_is_shown_is_read(proof: Proof) -> None:
    value = field(proof)
    assert proof_of([value]) == proof
    assert proof_of([value.encode()]) == proof
    assert re.fullmatch(r"[ -~]*", value), "fields are ASCII"
    assert len(value) <= FIELD_BYTES
    item: Any = http_sf.parse(value.encode(), tltype="item")
    assert item[0] == str(proof.token)
    assert item[1]["floor"] == str(proof.floor)


def test_it_looks_as_the_documents_say() -> None:
    grant = tenure.Grant("orders/42", 1795372291532495, 1795372291532490, "redis:8f1c/app")
    assert fencing.header(grant) == {
        "Fencing-Token": '"1795372291532495";floor="1795372291532490";resource="orders/42";authority="redis/app"'
    }
    assert fencing.header(7, resource="Über", seq=3) == {"Fencing-Token": '"7";floor="7";resource=%"%c3%9cber";seq="3"'}


@given(st.binary(max_size=80))
@example(b'"7";resource="r"')
def test_whatever_comes_is_a_proof_or_malformed(value: bytes) -> None:
    try:
        proof = proof_of([value])
    except MalformedToken:
        return
    # Whatever was taken for a token is one, in other words at most.
    assert proof_of([field(proof)]) == proof
    item: Any = http_sf.parse(value, tltype="item")
    assert item[0] == str(proof.token)


# Items of the grammar, of which few are tokens.
BARE = st.one_of(
    st.integers(0, 10**15).map(str),
    TOKENS.map(lambda n: f'"{n}"'),
    st.sampled_from(
        ['"0"', '"-1"', '"+7"', '"07"', '"7 "', '" 7"', '"seven"', '""', "7.0", "?1", ":Nw==:", "@7", "t7"]
    ),
    st.sampled_from(['%"7"', '("7")', '"7', "'7'", '"\u0667"', '"7", "7"']),
)
PARAMETERS = st.lists(
    st.tuples(st.sampled_from(["floor", "resource", "authority", "seq", "token", "Floor"]), BARE), max_size=3
)


@given(BARE, PARAMETERS)
def test_only_strings_of_numbers_are_tokens(bare: str, parameters: list[tuple[str, str]]) -> None:
    value = bare + "".join(f";{name}={said}" for name, said in parameters) + ';resource="r"'
    names = [name for name, _ in parameters]
    numbers = [said for name, said in parameters if name in ("floor", "seq")]
    is_number = re.compile(r'"[1-9][0-9]{0,18}"')
    may_pass = (
        all(is_number.fullmatch(said) and int(said[1:-1]) <= TOKEN_MAX for said in [bare, *numbers])
        and len({*names, "resource"}) == len(names) + 1
        and {*names} <= {"floor", "authority", "seq"}
    )
    try:
        proof = proof_of([value])
    except MalformedToken:
        return
    assert may_pass
    assert proof.token == int(bare[1:-1])


@pytest.mark.parametrize(
    "value",
    [
        "7",
        '"7";resource="r";resource="r"',
        '"7";floor="7";floor="7";resource="r"',
        '"7";resource="r";epoch="1"',
        '"7";resource="r", "8";resource="r"',
        '"7"; resource="r";seq="1";floor="6"',
        '"7";resource',
        '"7";resource=r',
        '"7";resource=7',
        '"7";resource=""',
        '"7";resource="' + "r" * 513 + '"',
        '"7";resource=%"%0a"',
        '"7";resource=%"%ff"',
        '"7";resource="r";authority=?1',
        '"7";resource="r"' + " " * FIELD_BYTES,
        '"7";resource="\u20ac"',
        "",
        " ",
    ],
    ids=lambda value: value[:30],
)
def test_what_is_malformed_is_never_read_as_no_fencing(value: str) -> None:
    with pytest.raises(MalformedToken):
        proof_of([value])


def test_one_token_is_all_that_can_be_compared() -> None:
    with pytest.raises(MissingToken):
        proof_of([])
    with pytest.raises(MalformedToken, match="2 fields"):
        proof_of(['"7";resource="r"'] * 2)


def test_what_no_middleware_has_seen_is_the_servers_mistake() -> None:
    proof = Proof("r", 7, 7)
    assert shown({KEY: proof}) is proof
    with pytest.raises(MissingToken):
        shown({KEY: None})
    with pytest.raises(UsageError, match="FencingMiddleware"):
        shown({})


# -- problems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_refusal_comes_out_as_the_same_class_and_tells_no_fence(kind: Kind) -> None:
    error_class = kind.error
    is_shown = kind.is_shown
    named = {"resource": "local", "token": 7, "fence": 1234567} if is_shown else {}
    proof = None if kind.name == "missing-token" else Proof("orders", 7, 7)
    answer = problem(error_class("it has seen 1234567" if is_shown else "why", **named), proof)
    assert answer is not None
    assert answer.status == kind.status
    assert b"1234567" not in answer.body
    headers = dict(answer.headers)
    assert is_problem(answer.status, headers["Content-Type"], headers["Content-Length"])
    again: Any = refusal_in(answer.status, answer.body)
    if is_shown:
        assert (again.resource, again.token) == ("orders", 7)
    assert type(again) is error_class


def test_what_is_not_the_requests_doing_is_no_answer() -> None:
    proof = Proof("orders", 7, 7)
    assert problem(ValueError(), proof) is None
    assert problem(tenure.LeaseLost("mine"), proof) is None
    assert problem(tenure.StaleToken("of the handler's own lease", token=8), proof) is None
    assert problem(tenure.StaleToken("of nobody", token=7)) is None
    assert problem(tenure.MissingToken("of a request of the handler's own"), proof) is None
    assert problem(tenure.MissingTable("of fences"), proof) is None


@pytest.mark.parametrize(
    ("status", "content_type", "length"),
    [
        (200, "application/problem+json", "10"),
        (412, "application/json", "10"),
        (412, None, "10"),
        (412, "application/problem+json", None),
        (412, "application/problem+json", "-1"),
        (412, "application/problem+json", str(PROBLEM_BYTES + 1)),
    ],
)
def test_what_is_no_problem_of_ours_is_not_read(status: int, content_type: str | None, length: str | None) -> None:
    assert not is_problem(status, content_type, length)
    assert is_problem(412, "Application/Problem+JSON; charset=utf-8", "10")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"type": 7}',
        b'{"type": "about:blank", "status": 412}',
        b'{"type": "urn:problem-type:tenure:not-raised"}',
    ],
)
def test_what_others_answer_is_no_refusal_of_ours(body: bytes) -> None:
    assert refusal_in(412, body) is None


def test_a_problem_that_lies_about_its_numbers_is_still_a_refusal() -> None:
    error = refusal_in(412, b'{"type": "urn:problem-type:tenure:stale-token", "token": 7, "resource": [1]}')
    assert isinstance(error, tenure.StaleToken)
    assert error.token == 0
    assert NAME == "Fencing-Token"
