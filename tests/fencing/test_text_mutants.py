"""The tests of objects and of HTTP are tested: each protection taken out once, which one of them must notice.

The guards of both go through the drill as well, whose own mutants are in `test_mutants.py`.
"""

# ruff: noqa: E501 - texts of the tree stand on one line each

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tenure.fencing.web.field import FIELD_BYTES
from tenure.fencing.web.problems import KINDS
from tests.fencing import test_field as field
from tests.fencing import test_http as http
from tests.fencing import test_object_state as state
from tests.fencing import test_objects as objects
from tests.fencing import test_objects_answers as answers
from tests.fencing import test_web as web
from tests.fencing.mutating import mutated

if TYPE_CHECKING:
    from collections.abc import Callable

server, shared_client, place, pair = objects.server, objects.shared_client, objects.place, http.pair
"""Fixtures of theirs."""


class Mutant(NamedTuple):
    """One protection taken out.

    Attributes:
        killer: the test that must notice; what it wants beside `given` are fixtures.
    """

    what: str
    module: str
    text: str
    replacement: str
    killer: Callable[..., Any]
    given: dict[str, Any] = {}  # noqa: RUF012 - of a value that nobody changes


BUCKET, GUARD, STATE = (f"tenure.fencing.objects.{module}" for module in ("bucket", "guard", "state"))
FIELD, SENDER, PROBLEMS = (f"tenure.fencing.web.{module}" for module in ("field", "sender", "problems"))
ASGI, WSGI = "tenure.integrations.asgi", "tenure.integrations.wsgi"

LATE = http.test_whoever_sends_late_is_refused_and_then_sends_no_more
MALFORMED = field.test_what_is_malformed_is_never_read_as_no_fencing
BAD = http.test_what_is_missing_or_malformed_never_reaches_the_handler
BY_ASGI = {"app": http.PLACES["asgi"]}
NEVER = web.test_a_write_without_a_token_never_reaches_an_application_that_asks_for_none

MUTANTS = (
    Mutant("a PUT has no condition", BUCKET, 'condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before.etag}', "condition = {}", objects.test_whoever_enters_shuts_its_predecessors_out_before_it_reads),
    Mutant("a 5xx has done nothing", BUCKET, 'said["HTTPStatusCode"] >= 500 or said.get("RetryAttempts")', "False", answers.test_a_put_without_a_clear_answer_is_done_once, {"fault": answers.DONE}),
    Mutant("no store is asked whether it knows conditions", BUCKET, "if which in _honouring:", "if True:", objects.test_a_store_that_ignores_conditions_is_refused, {"field": "If-Match"}),
    Mutant("If-Match is not asked about", BUCKET, '        self._refuses("If-Match", key, IfMatch=first)\n', "", objects.test_a_store_that_ignores_conditions_is_refused, {"field": "If-Match"}),
    Mutant("If-None-Match is not asked about", BUCKET, '        self._refuses("If-None-Match: *", key, IfNoneMatch="*")\n', "", objects.test_a_store_that_ignores_conditions_is_refused, {"field": "If-None-Match"}),
    Mutant("whoever comes is let in", GUARD, "if found is not None and verdict is Verdict.ACCEPTED:", "if found is not None:", objects.test_the_holder_works_and_whoever_came_before_does_not),
    Mutant("who has not raised works", GUARD, "if found is not None and verdict is Verdict.ACCEPTED:", "if found is not None and verdict in (Verdict.ACCEPTED, Verdict.NOT_RAISED):", objects.test_whoever_enters_shuts_its_predecessors_out_before_it_reads),
    Mutant("a lost lease enters", GUARD, "        self._look()\n        self._bucket.probe()\n", "        self._bucket.probe()\n", objects.test_a_lost_lease_asks_for_nothing_and_writes_nothing),
    Mutant("a lost lease writes", GUARD, "            self._look()\n            self._write(", "            self._write(", objects.test_a_lost_lease_asks_for_nothing_and_writes_nothing),
    Mutant("an error writes", GUARD, "if error is None and stored", "if stored", objects.test_an_error_in_the_block_writes_nothing),
    Mutant("a refused payload stays", GUARD, "        if after.is_apart:\n            self._bucket.discard(after.nonce)\n", "", objects.test_a_refused_write_leaves_no_payload_behind),
    Mutant("an overtaken reader reads on", GUARD, "if now is not None and now.state.nonce != state.nonce:", "if False:", objects.test_whoever_was_overtaken_is_told_when_its_payload_has_gone),
    Mutant("a refusal after a doubt is a refusal", GUARD, "                if doubt is None:\n                    raise\n                raise OutcomeUnknown(f\"no answer to a write", "                if True:\n                    raise\n                raise OutcomeUnknown(f\"no answer to a write", answers.test_a_refusal_after_a_put_without_an_answer_is_no_refusal),
    Mutant("only the last nonce is compared", STATE, "after.nonce in (now.nonce, *now.past)", "after.nonce == now.nonce", answers.test_a_write_that_landed_before_others_wrote_is_done),
    Mutant("what is forgotten did not happen", STATE, "Fate.VOID if reaches else Fate.UNKNOWN", "Fate.VOID", state.test_a_writer_is_told_the_truth_or_that_nobody_knows),
    Mutant("what can still land did not", STATE, "return Fate.PENDING if before is None else Fate.VOID", "return Fate.VOID", state.test_a_writer_is_told_the_truth_or_that_nobody_knows),
    Mutant("numbers are not noted", STATE, "before.fence._replace(seq=proof.seq or before.fence.seq)", "before.fence", objects.test_a_numbered_operation_is_done_once),
    Mutant("a delete forgets the fence", STATE, "    if data is None:\n        return after\n", "    if data is None:\n        return after._replace(fence=Fence())\n", objects.test_a_delete_keeps_the_fence),
    Mutant("a cut payload is whole", STATE, " or len(rest) != (size if payload == HERE else 0)", "", state.test_a_payload_that_was_cut_off_is_refused),
    Mutant("whatever is no state is no fence", BUCKET, "raise IncompatibleStore(f\"{self.name} is no state object of tenure, and is left as it is\")", "return None", objects.test_what_is_not_ours_is_left_as_it_is),
    Mutant("one of two fields is read", FIELD, "    if len(values) > 1:", "    values = values[:1]\n    if False:", field.test_one_token_is_all_that_can_be_compared),
    Mutant("unknown parameters pass", FIELD, "if unknown := parameters.keys() - _KNOWN:", "if unknown := set():", MALFORMED, {"value": '"7";resource="r";epoch="1"'}),
    Mutant("a parameter may be there twice", FIELD, ", on_duplicate_key=_refuse_twice", "", MALFORMED, {"value": '"7";resource="r";resource="r"'}),
    Mutant("a floor may be above its token", FIELD, "if floor > token:", "if False:", BAD, BY_ASGI),
    Mutant("a token may be too large", FIELD, " or int(said) > TOKEN_MAX", "", BAD, BY_ASGI),
    Mutant("co-holders number operations", FIELD, "if seq and floor != token:", "if False:", MALFORMED, {"value": '"7"; resource="r";seq="1";floor="6"'}),
    Mutant("a field may be endless", FIELD, "if len(value) > FIELD_BYTES:", "if False:", MALFORMED, {"value": '"7";resource="r"' + " " * FIELD_BYTES}),
    Mutant("no token is a proof", FIELD, "if not isinstance(proof, Proof):", "if False:", field.test_what_no_middleware_has_seen_is_the_servers_mistake),
    Mutant("a lost lease sends", SENDER, "        if self._holder is not None:\n            self._holder.check()\n", "", LATE, {"sender": "httpx"}),
    Mutant("a refused lease is not told", SENDER, "if isinstance(error, StaleToken) and", "if False and", LATE, {"sender": "httpx"}),
    Mutant("a refusal of any token is its own", SENDER, " and (error.resource, error.token) == (proof.resource, proof.token)", "", web.test_a_refusal_of_another_token_leaves_the_lease_alone),
    Mutant("an alarm is a stale token", SENDER, "await settle(Verdict.STALE, Fence(), proof, self._holder, is_async=is_async)", "self._holder and self._holder.refused()", web.test_a_rightful_holder_that_is_refused_raises_an_alarm_and_keeps_its_lease, {"sender": "httpx"}),
    Mutant("requests hears nothing", "tenure.fencing.web.for_requests", "if (error := refusal_of(response)) is not None:", "if (error := refusal_of(response)) is not None and False:", LATE, {"sender": "requests"}),
    Mutant("every answer is read", "tenure.fencing.web.for_httpx", 'return is_problem(response.status_code, headers.get("Content-Type"), headers.get("Content-Length"))', "return headers is not None", web.test_what_others_answer_is_left_to_the_caller),
    Mutant("the fence is told", PROBLEMS, '"token": str(proof.token)}\n    else:', '"token": str(proof.token), "detail": str(error)}\n    else:', field.test_a_refusal_comes_out_as_the_same_class_and_tells_no_fence, {"kind": next(kind for kind in KINDS if kind.is_shown)}),
    Mutant("the handler's own refusals are the request's", PROBLEMS, ' or (kind.is_shown and (proof is None or getattr(error, "token", None) != proof.token))', "", field.test_what_is_not_the_requests_doing_is_no_answer),
    Mutant("the handler's own request is the request", PROBLEMS, "if kind.error is MissingToken and proof is not None:", "if False:", field.test_what_is_not_the_requests_doing_is_no_answer),
    Mutant("any status refuses", PROBLEMS, "if kind is None or kind.status != status:", "if kind is None:", field.test_what_others_answer_is_no_refusal_of_ours, {"body": b'{"type": "urn:problem-type:tenure:not-raised"}'}),
    Mutant("ASGI: a token may be missing", ASGI, 'elif scope["method"] in self._methods:', "elif False:", NEVER, {"framework": "asgi"}),
    Mutant("ASGI: no door", ASGI, "if self._door is not None:", "if False:", web.test_a_door_lets_no_request_start_once_a_later_token_was_seen, {"serve": web.asgi}),
    Mutant("WSGI: a token may be missing", WSGI, 'if environ["REQUEST_METHOD"] in self._methods:', "if False:", NEVER, {"framework": "wsgi"}),
    Mutant("WSGI: no door", WSGI, "if proof is not None and self._door is not None:", "if False:", web.test_a_door_lets_no_request_start_once_a_later_token_was_seen, {"serve": web.wsgi}),
)  # fmt: skip


def arguments(mutant: Mutant, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What its killer is called with."""
    names = [name for name in signature(mutant.killer).parameters if name not in mutant.given]
    return {**mutant.given, **{name: request.getfixturevalue(name) for name in names}}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_protection_that_was_taken_out_is_missed(mutant: Mutant, request: pytest.FixtureRequest) -> None:
    given = arguments(mutant, request)
    with mutated(mutant.module, mutant.text, mutant.replacement), pytest.raises((Exception, pytest.fail.Exception)):
        mutant.killer(**given)


@pytest.mark.parametrize("module", sorted({mutant.module for mutant in MUTANTS}))
def test_a_copy_with_nothing_taken_out_passes(module: str, request: pytest.FixtureRequest) -> None:
    """It is the missing protection that those tests notice, and not the copy."""
    [mutant, *_] = [m for m in MUTANTS if m.module == module]
    given = arguments(mutant, request)
    with mutated(module, mutant.text, mutant.text):
        mutant.killer(**given)
