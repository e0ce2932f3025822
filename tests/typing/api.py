"""How users write it, for mypy in strict mode and pyright: checked, never run."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, assert_type

import httpx
import psycopg
import requests
import sqlalchemy.orm

from tenure import (
    AsyncClient,
    AsyncLease,
    AsyncLock,
    Client,
    Grade,
    Grant,
    Lease,
    LeaseState,
    Lock,
    LossReason,
    Queue,
    Report,
    StaleToken,
    fencing,
)
from tenure.integrations.asgi import FencingMiddleware
from tenure.observe import Event, Granted, Lost

if TYPE_CHECKING:
    from psycopg.rows import TupleRow


def observe(event: Event) -> None:
    if isinstance(event, Granted):
        assert_type(event.token, int)
    elif isinstance(event, Lost):
        assert_type(event.reason, LossReason)


def blocking() -> None:
    with Client("sqlite://", ttl=30, require={"fifo"}, on_event=observe) as client:
        assert_type(client, Client)
        lock = client.lock("name", shared=True, wait=None, max_hold=60, lock_delay=1.5, info="why")
        assert_type(lock, Lock)
        with lock as lease:
            assert_type(lease, Lease)
            assert_type(lease.token, int)
            assert_type(lease.grant, Grant)
            assert_type(lease.held, bool)
            assert_type(lease.lost, LossReason | None)
            assert_type(lease.state, LeaseState)
            assert_type(lease.remaining(), float)
            assert_type(lease.wait_lost(1), LossReason | None)
        assert_type(client.semaphore("pool", 5, permits=2).acquire(wait=1), Lease)
        assert_type(lock.try_acquire(), Lease | None)
        assert_type(client.inspect("name"), Queue)
        assert_type(client.names("prefix"), list[str])
        assert_type(client.steal("name", 7), bool)
        report = client.doctor()
        assert_type(report, Report)
        assert_type(report.worst >= Grade.WARNING, bool)
        assert_type([finding.found for finding in report.findings], list[str])


async def aio() -> None:
    async with AsyncClient(require="multi_host") as client:
        assert_type(client, AsyncClient)
        lock = client.lock("name", cancel_on_loss=False)
        assert_type(lock, AsyncLock)
        async with lock as lease:
            assert_type(lease, AsyncLease)
            assert_type(await lease.wait_lost(), LossReason | None)
        assert_type(await lock.acquire(), AsyncLease)
        assert_type(await lock.try_acquire(), AsyncLease | None)
        assert_type(await client.inspect("name"), Queue)
        assert_type(await client.names(), list[str])
        assert_type(await client.doctor(), Report)


def fenced(
    client: Client,
    embedded: sqlite3.Connection,
    blocking: psycopg.Connection[TupleRow],
    looping: psycopg.AsyncConnection[TupleRow],
    session: sqlalchemy.orm.Session,
) -> None:
    with client.lock("name") as lease:
        with fencing.sqlite3(embedded, lease, seq=1) as one:
            assert_type(one, sqlite3.Connection)
        with fencing.psycopg(blocking, lease.grant, row=fencing.Row("docs", {"id": 7})):
            pass
        assert_type(fencing.psycopg(looping, 7, resource="r"), fencing.AsyncGuard[psycopg.AsyncConnection[Any]])
        with fencing.sqlalchemy(session, lease) as two:
            assert_type(two, sqlalchemy.orm.Session)
        assert_type(lease.confirm(), bool)
        lease.refused()
        with fencing.file("report.csv", lease) as report:
            report.write_text(report.read_text())
        fencing.open("report.csv", lease)
        fencing.open(embedded, lease)
    with fencing.s3(object(), lease, bucket="b", key="k", seq=1) as stored:
        assert_type(stored.read(), bytes | None)
        stored.write(b"")
    assert_type(fencing.read_s3(object(), bucket="b", key="k"), bytes | None)
    try:
        pass
    except StaleToken as refused:
        assert_type(refused.fence, int)


def over_http(lease: Lease, scope: dict[str, Any]) -> None:
    assert_type(fencing.header(lease, resource="r"), dict[str, str])
    httpx.put("http://orders", auth=fencing.httpx(lease, seq=1, auth=httpx.BasicAuth("me", "secret")))
    requests.put("http://orders", auth=fencing.requests(lease), timeout=1)
    proof = fencing.shown(scope)
    assert_type(proof, fencing.Proof)
    assert_type(proof.of("orders/42").token, int)
    FencingMiddleware(lambda scope, receive, send: send({}), methods={"PUT"})


def wrong(client: Client) -> None:
    client.lock(b"name")  # type: ignore[arg-type]
    client.lock("name", True)  # type: ignore[call-arg]  # flags are keywords
    client.semaphore("name", "3")  # type: ignore[arg-type]
    fencing.header("7")  # type: ignore[arg-type]
    fencing.sqlite3("app.db", 7)  # type: ignore[arg-type]
    fencing.psycopg("dbname=app", 7)  # type: ignore[call-overload]
    client.lock("name", cancel_on_loss=True)  # type: ignore[call-arg]  # a thread cannot be stopped
