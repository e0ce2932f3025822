"""Opening a client whose first question gets no answer."""

from __future__ import annotations

import pytest

from tenure import Client, OutcomeUnknown, StoreUnavailable, core
from tenure.engines.memory import MemoryStore


def test_a_first_answer_that_is_lost_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, asked = MemoryStore.authority, []

    async def once_lost(self: MemoryStore, timeout: float) -> str:
        found = await answer(self, timeout)
        asked.append(timeout)
        if len(asked) == 1:
            raise OutcomeUnknown("the connection broke")
        return found

    monkeypatch.setattr(MemoryStore, "authority", once_lost)
    with Client("memory://opening") as client, client.lock("name") as lease:
        assert lease.grant.authority.endswith("/tenure")
    assert len(asked) == 2


def test_without_an_answer_nothing_is_open_and_the_next_use_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(self: MemoryStore, timeout: float) -> str:
        raise OutcomeUnknown("the connection broke")

    client = Client("memory://opening")
    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "authority", lost)
        patched.setattr(core, "OPEN_MOST", 0.1)
        with pytest.raises(StoreUnavailable, match="did not answer"):
            client.open()
    with client, client.lock("name") as lease:
        assert lease.held
