"""The rule of the fence, its properties, its mutants, and what is taken for a proof."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import tenure
from tenure.errors import (
    ForeignToken,
    NotRaised,
    StaleOperation,
    StaleToken,
    TenureError,
    UsageError,
    WrongResource,
    _Refusal,
)
from tenure.fencing import rule
from tenure.fencing.rule import TOKEN_MAX, Fence, Proof, Verdict, prove
from tenure.model import Grant
from tests.fencing.properties import MUTANTS, PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(rule.__file__).read_text("utf-8")


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
def test_the_rule_has_its_properties(holds: Callable[[ModuleType], None]) -> None:
    holds(rule)


@pytest.mark.parametrize(("what", "text", "replacement"), MUTANTS, ids=[what for what, _, _ in MUTANTS])
def test_a_rule_taken_out_is_noticed(what: str, text: str, replacement: str) -> None:
    assert SOURCE.count(text) == 1, f"{what}: the text to change is not there, or not unique"
    mutant = ModuleType("mutant")
    # dataclass-like machinery of NamedTuple looks its module up by name.
    exec(compile(SOURCE.replace(text, replacement), "mutant", "exec"), mutant.__dict__)  # noqa: S102 - our own
    caught = 0
    for holds in PROPERTIES:
        try:
            holds(mutant)
        except AssertionError:
            caught += 1
    assert caught, f"{what}: no property noticed"


def test_a_fence_that_was_never_raised_knows_nobody() -> None:
    assert rule.judge(Fence(), Proof("r", 1, 1)) is Verdict.NOT_RAISED


def test_the_largest_token_is_compared_exactly() -> None:
    fence = rule.raised(Fence(), Proof("r", TOKEN_MAX, TOKEN_MAX))
    assert rule.judge(fence, Proof("r", TOKEN_MAX - 1, TOKEN_MAX - 1)) is Verdict.STALE
    assert rule.judge(fence, Proof("r", TOKEN_MAX, TOKEN_MAX)) is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        (Verdict.STALE, StaleToken),
        (Verdict.DUPLICATE, StaleOperation),
        (Verdict.FOREIGN, ForeignToken),
        (Verdict.NOT_RAISED, NotRaised),
    ],
)
def test_a_refusal_says_what_was_compared(verdict: Verdict, kind: type[TenureError]) -> None:
    error = rule.refusal(verdict, Fence(9, 12, 3, "etcd/a"), Proof("reports", 5, 5, "redis/a", 2))
    assert isinstance(error, kind)
    assert isinstance(error, _Refusal)
    assert (error.resource, error.token, error.fence) == ("reports", 5, 12)
    assert "'reports'" in str(error)
    assert not error.retry


BAD_TOKENS = [0, -1, True, False, 1.0, "7", None, 2**63, b"7", [7]]


@pytest.mark.parametrize("token", BAD_TOKENS, ids=repr)
def test_what_is_no_token_is_refused_and_never_read_as_no_fencing(token: Any) -> None:
    with pytest.raises(UsageError):
        prove(token, "r")
    with pytest.raises(UsageError):
        prove(Grant("r", token, token), "r")
    with pytest.raises(UsageError):
        prove(Grant("r", 9, token))
    if token is not None:
        with pytest.raises(UsageError):
            prove(9, "r", token)


@pytest.mark.parametrize("resource", ["", "x" * 513, 7, "a\0b", "\ud800"], ids=repr)
def test_what_is_no_resource_is_refused(resource: Any) -> None:
    with pytest.raises(UsageError, match="resource"):
        prove(7, resource)


def test_a_bare_token_must_say_what_it_protects() -> None:
    with pytest.raises(UsageError, match="resource"):
        prove(7)
    assert prove(7, "r") == (Proof("r", 7, 7), None)
    assert prove(TOKEN_MAX, "r")[0].token == TOKEN_MAX


def test_a_proof_proves_itself_and_nothing_else() -> None:
    proof = Proof("r", 7, 7, "redis/app", 3)
    assert prove(proof) == prove(proof, "r") == (proof, None)
    assert proof.of("r") is proof
    for resource in ("R", "r "):
        with pytest.raises(WrongResource):
            prove(proof, resource)
        with pytest.raises(WrongResource):
            proof.of(resource)
    assert prove(proof, label="a place")[0].resource == "a place"
    assert prove(proof._replace(seq=0), seq=5)[0].seq == 5
    with pytest.raises(UsageError, match="by itself"):
        prove(proof, seq=5)
    for wrong in (
        proof._replace(token=0),
        proof._replace(floor=8),
        proof._replace(floor=5),
        proof._replace(resource=""),
    ):
        with pytest.raises(UsageError):
            prove(wrong)


def test_a_floor_above_its_token_is_refused() -> None:
    with pytest.raises(UsageError, match="floor"):
        prove(Grant("r", 7, 8))


def test_operations_are_numbered_under_exclusive_leases_only() -> None:
    assert prove(Grant("r", 7, 7), seq=1)[0].seq == 1
    with pytest.raises(UsageError, match="exclusive"):
        prove(Grant("r", 7, 5), seq=1)


def test_an_authority_is_compared_without_the_stores_own_id() -> None:
    assert prove(Grant("r", 7, 7, "redis:8f1c/app"))[0].authority == "redis/app"
    assert prove(Grant("r", 7, 7, "of.our/own"))[0].authority == "of.our/own"


def test_a_lease_proves_what_its_grant_proves() -> None:
    with tenure.Client("memory://") as client:
        lease = client.lock("orders").acquire()
        proof, holder = prove(lease)
        assert holder is lease
        assert (proof, None) == prove(lease.grant)
        assert (proof.resource, proof.token, proof.authority) == ("orders", lease.token, "memory/tenure")
        lease.release()


def test_a_service_that_merely_enforces_loads_no_engine_and_no_driver() -> None:
    program = (
        "import sys, tenure; tenure.fencing.psycopg, tenure.fencing.s3, tenure.fencing.httpx; "
        "print([m for m in sys.modules if m.startswith(('tenure.engines', 'tenure.core', 'tenure.client', "
        "'tenure.protocols', 'tenure.sql.drivers', 'psycopg', 'sqlite3', 'redis', 'asyncio', 'boto', 'http', "
        "'requests', 'fastapi', 'django'))])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.strip() == "[]"
