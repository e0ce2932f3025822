"""Fences in Redis for tests: put there, read, and judged by the scripts and by the rule."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tenure.fencing.rule import TOKEN_MAX, Fence, Proof, Verdict, judge, raised

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

FENCE = "tenure:fence:{orders}"
ORDERS: dict[str, Any] = {"resource": "orders"}

NUMBERS = (0, 1, 2, 9, 10, 99, 2**53 - 1, 2**53, 2**53 + 1, TOKEN_MAX - 1, TOKEN_MAX)


def cases(seed: int) -> Iterator[tuple[Fence, Proof]]:
    """Fences and proofs at the borders of each other."""
    chance = random.Random(seed)  # noqa: S311 - a test's
    for _ in range(400):
        fence = Fence(chance.choice(NUMBERS), 0, chance.choice((0, 1, 2, 10)), chance.choice(("", "redis/a", "etcd/a")))
        token = chance.choice(NUMBERS[1:])
        floor = chance.choice([number for number in NUMBERS[1:] if number <= token])
        yield fence, Proof("orders", token, floor, chance.choice(("", "redis/a")), chance.choice((0, 1, 2, 9, 11)))


def shown(proof: Proof) -> tuple[str, ...]:
    return str(proof.token), str(proof.floor), proof.authority, str(proof.seq)


def put(client: redis.Redis, fence: Fence) -> None:
    client.delete(FENCE)
    client.hset(FENCE, mapping={"token": fence.token, "seq": fence.seq, "authority": fence.authority})


def kept(client: redis.Redis) -> Fence:
    token, seq, authority = client.hmget(FENCE, "token", "seq", "authority")
    assert token is not None
    assert seq is not None
    assert isinstance(authority, bytes)
    return Fence(int(token), 0, int(seq), authority.decode())


def disagreements(client: redis.Redis, check: str, lift: str) -> list[tuple[Fence, Proof]]:
    """Where a pair of scripts and the rule say different things."""
    found = []
    for fence, proof in cases(seed=3):
        put(client, fence)
        verdict = judge(fence, proof)
        answer = client.eval(check, 1, FENCE, *shown(proof), "2", "GET", "x")
        noted = kept(client).seq == (proof.seq if verdict is Verdict.ACCEPTED and proof.seq else fence.seq)
        is_same = (answer[0] == 1) == (verdict is Verdict.ACCEPTED) and noted
        put(client, fence)
        bare = proof._replace(seq=0)
        client.eval(lift, 1, FENCE, *shown(bare))
        after = raised(fence, bare) if judge(fence, bare) is Verdict.NOT_RAISED else fence
        if not is_same or kept(client) != after:
            found.append((fence, proof))
    return found


def collect(steps: Any, value: int) -> None:
    """Three commands, of which the second fails where `text` is a string."""
    steps.set("a", value)
    steps.lpush("text", 1)
    steps.set("b", value)
