"""What every guard does, whatever its driver: one contract, each driver through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import tenure
from tenure.errors import (
    FenceRegression,
    ForeignToken,
    LeaseLost,
    MissingRow,
    MissingTable,
    NotRaised,
    StaleOperation,
    StaleToken,
    UsageError,
    WrongResource,
)
from tenure.fencing import Proof, Row
from tenure.model import Grant, LossReason
from tests.fencing.session import Session

if TYPE_CHECKING:
    from tests.fencing.conftest import Rig

ADD = "UPDATE counter SET v = v + 1 WHERE id = 1"


def grant(token: int, floor: int | None = None, authority: str = "") -> Grant:
    return Grant("orders", token, token if floor is None else floor, authority)


async def add(session: Session, lease: Any, **named: Any) -> None:
    async with session.guard(lease, **named):
        await session.add()


def test_the_first_block_raises_the_fence_and_each_block_is_a_transaction_where_there_are_any(rig: Rig) -> None:
    async def scenario(one: Session, two: Session) -> None:
        assert await two.fence() is None
        async with one.guard(grant(7)):
            assert await one.value() == 0
            await one.add()
            if rig.driver.store != "sqlite":
                assert await two.fence() == 7  # committed before anything is read
                assert await two.value() == (0 if rig.driver.rolls_back else 1)
                await two.rollback()
        assert await two.value() == 1
        await two.rollback()
        await add(one, grant(7))
        await add(one, grant(7))
        assert (await two.fence(), await two.value()) == (7, 3)

    rig.run(scenario)


def test_one_guard_serves_one_block_after_the_other_and_not_one_in_the_other(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        made = one.make(grant(7))

        async def enter() -> None:
            await made.__aenter__() if hasattr(made, "__aenter__") else made.__enter__()

        async def leave() -> None:
            await made.__aexit__(None, None, None) if hasattr(made, "__aexit__") else made.__exit__(None, None, None)

        for _ in range(2):
            await enter()
            await one.do(ADD)
            with pytest.raises(UsageError, match="entered already"):
                await enter()
            await leave()
        assert await one.value() == 2

    sql.run(scenario)


def test_a_stale_holder_writes_nothing(rig: Rig) -> None:
    async def scenario(old: Session, new: Session) -> None:
        await add(old, grant(7))
        await add(new, grant(9))
        with pytest.raises(StaleToken) as refused:
            await add(old, grant(7))
        resource = {"file": old.connection, "s3": getattr(old, "resource", "")}.get(rig.driver.store, "orders")
        seen = 9 if rig.driver.tells_fence else 0
        assert (refused.value.resource, refused.value.token, refused.value.fence) == (resource, 7, seen)
        assert await new.value() == 2
        await new.rollback()
        await add(new, grant(9))

    rig.run(scenario)


def test_an_error_in_the_block_rolls_back_the_work_and_not_the_fence(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        with pytest.raises(ZeroDivisionError):
            async with one.guard(grant(7)):
                await one.add()
                _ = 1 / 0
        assert (await one.fence(), await one.value()) == (7, 0 if rig.driver.rolls_back else 1)
        await one.rollback()
        with pytest.raises(StaleToken):
            await add(one, grant(6))
        await add(one, grant(7))

    rig.run(scenario)


def test_in_a_transaction_that_has_begun_the_guard_only_checks_what_was_opened_before(sql: Rig) -> None:
    async def scenario(one: Session, two: Session) -> None:
        await one.begin()
        with pytest.raises(NotRaised, match=r"fencing\.open"):
            await add(one, grant(7))
        with pytest.raises(UsageError, match="commit"):
            await one.open(grant(7))
        await one.rollback()
        assert await one.fence() is None
        await one.open(grant(7))
        await one.open(grant(7))
        assert await one.fence() == 7
        await one.begin()
        await add(one, grant(7))
        async with one.guard(grant(7)), one.guard(grant(7)):
            await one.do(ADD)
        await one.rollback()
        assert await one.value() == 0  # the transaction is the caller's
        await one.rollback()
        await one.begin()
        await add(one, grant(7))
        await one.commit()
        assert await one.value() == 1
        await one.rollback()
        await two.open(grant(9))
        await one.begin()
        with pytest.raises(StaleToken):
            await add(one, grant(7))

    sql.run(scenario)


def test_a_stale_holder_cannot_raise(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        await one.open(grant(9))
        with pytest.raises(StaleToken):
            await one.open(grant(7))
        assert await one.fence() == 9
        await add(one, grant(9))

    rig.run(scenario)


def test_co_holders_never_shut_each_other_out(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        await add(one, grant(4))
        first, second, third = grant(5, 5), grant(7, 5), grant(9, 7)
        for holder in (second, first, second, third, second):
            await add(one, holder)
        with pytest.raises(StaleToken):
            await add(one, first)  # it had left before the third came
        with pytest.raises(StaleToken):
            await add(one, grant(4))
        assert (await one.fence(), await one.value()) == (7, 6)

    rig.run(scenario)


def test_a_numbered_operation_is_done_once(counted: Rig) -> None:
    async def scenario(one: Session) -> None:
        await add(one, grant(7), seq=1)
        with pytest.raises(StaleOperation) as refused:
            await add(one, grant(7), seq=1)
        assert (refused.value.seq, refused.value.applied) == (1, 1)
        await add(one, grant(7), seq=5)
        with pytest.raises(StaleOperation):
            await add(one, grant(7), seq=4)
        with pytest.raises(ZeroDivisionError):
            async with one.guard(grant(7), seq=6):
                _ = 1 / 0
        await add(one, grant(7), seq=6)  # it was rolled back, so it was not done
        await add(one, grant(7))
        await add(one, grant(8), seq=1)
        with pytest.raises(StaleToken):
            await add(one, grant(7), seq=7)
        assert await one.value() == 5

    counted.run(scenario)


def test_a_token_of_another_authority_is_foreign_and_changes_nothing(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        await add(one, grant(1_000, authority="redis:a1/app"))
        await add(one, grant(1_001, authority="redis:b2/app"))  # the same engine, which lost its data
        for token in (5, 2_000):
            with pytest.raises(ForeignToken) as refused:
                await add(one, grant(token, authority="etcd:c3/app"))
            told = ("etcd/app", "redis/app") if rig.driver.tells_fence else ("", "")
            assert (refused.value.authority, refused.value.fenced_by) == told
            with pytest.raises(ForeignToken):
                await one.open(grant(token, authority="etcd:c3/app"))
        assert await one.fence() == 1_001
        await add(one, 1_001, resource="orders")  # a bare number can only be stale
        with pytest.raises(StaleToken):
            await add(one, 1_000, resource="orders")

    rig.run(scenario)


def test_tokens_beyond_what_a_double_holds_are_compared_exactly(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        top = 2**63 - 1
        await add(one, top - 1, resource="orders")
        await add(one, top, resource="orders")
        with pytest.raises(StaleToken):
            await add(one, top - 1, resource="orders")

    rig.run(scenario)


def test_the_proof_that_a_request_has_shown_is_taken_as_a_lease_is(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        await add(one, Proof("orders", 9, 9))
        with pytest.raises(StaleToken):
            await add(one, Proof("orders", 7, 7))
        await add(one, Proof("orders", 9, 9))
        assert (await one.fence(), await one.value()) == (9, 2)

    rig.run(scenario)


def test_a_proof_for_another_resource_raises_no_fence(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        with pytest.raises(WrongResource):
            await add(one, Proof("another", 9, 9), resource="orders")
        row = Row("counter", {"id": 1})
        with pytest.raises(WrongResource):
            await add(one, Proof("another", 9, 9).of("orders"), row=row)
        await add(one, Proof("orders", 7, 7), resource="orders")
        await add(one, Proof("orders", 7, 7).of("orders"), row=row)
        assert (await one.fence(), await one.value()) == (7, 2)

    sql.run(scenario)


def test_a_fence_in_a_column_protects_its_row_and_tells_missing_from_stale(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        row, null = Row("counter", {"id": 1}), Row("counter", {"id": 2}, column="fence")
        await add(one, grant(7), row=row)
        await add(one, grant(9), row=row)
        with pytest.raises(StaleToken, match="counter"):
            await add(one, grant(7), row=row)
        await add(one, grant(3), row=null)  # another row, another fence
        for missing in (Row("counter", {"id": 3}), Row("counter", {"id": 1, "v": -1})):
            with pytest.raises(MissingRow, match="no row"):
                await add(one, grant(9), row=missing)
            with pytest.raises(MissingRow, match="no row"):
                await one.open(grant(9), row=missing)
        assert await one.one("SELECT fence FROM counter WHERE id = 1") == 9
        await one.rollback()
        await one.begin()
        with pytest.raises(NotRaised):
            await add(one, grant(11), row=row)
        await one.rollback()
        await one.open(grant(11), row=row)
        await one.begin()
        await add(one, grant(11), row=row)
        await one.rollback()
        with pytest.raises(UsageError, match="seq"):
            await add(one, grant(11), row=row, seq=1)

    sql.run(scenario)


def test_a_row_with_columns_for_them_compares_authorities_and_numbers_operations(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        await one.do("CREATE TABLE door (id INTEGER, fence BIGINT, whose VARCHAR(512), done BIGINT)")
        await one.do("INSERT INTO door VALUES (1, NULL, NULL, NULL), (2, 0, '', 0)")
        await one.commit()
        for number in (1, 2):
            row = Row("door", {"id": number}, authority="whose", seq="done")
            await add(one, grant(7, authority="redis:a1/app"), row=row, seq=3)
            with pytest.raises(StaleOperation):
                await add(one, grant(7, authority="redis:a1/app"), row=row, seq=3)
            with pytest.raises(ForeignToken, match="etcd/app"):
                await add(one, grant(9, authority="etcd:c3/app"), row=row)
            await add(one, grant(9, authority="redis:b2/app"), row=row, seq=1)  # it counts from the start
            with pytest.raises(StaleToken):
                await add(one, grant(7, authority="redis:a1/app"), row=row, seq=4)
            await add(one, grant(11), row=row)  # nobody's, and the fence stays whose it is
            for column, kept in {"fence": 11, "whose": "redis/app", "done": 0}.items():
                assert await one.one(f"SELECT {column} FROM door WHERE id = {number}") == kept
            await one.rollback()
        assert await one.value() == 6

    sql.run(scenario)


@pytest.mark.parametrize(
    "named",
    [{"seq": "fence"}, {"authority": "FENCE"}, {"authority": "a", "seq": "a"}, {"column": "id"}, {"seq": ""}],
)
def test_a_row_names_each_column_once(named: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Row("door", {"id": 1}, **named)


def test_names_that_sql_would_stumble_over_are_quoted(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        q = "`" if one.dialect == "mysql" else '"'
        await one.do(f"CREATE TABLE {q}order{q} ({q}or{q} INTEGER, {q}the fence{q} BIGINT)")
        await one.do(f"INSERT INTO {q}order{q} VALUES (1, 0)")
        await one.commit()
        await add(one, grant(7), row=Row("order", {"or": 1}, column="the fence"))
        assert await one.one(f"SELECT {q}the fence{q} FROM {q}order{q}") == 7

    sql.run(scenario)


def test_a_resource_may_be_called_anything(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        for name in ("it's 100% :quoted", "große Halle/Ü", "x" * 512, "Orders", "orders", "orders "):
            await add(one, 7, resource=name)
            with pytest.raises(StaleToken):
                await add(one, 6, resource=name)
        assert await one.one("SELECT COUNT(*) FROM tenure_fence") == 6

    sql.run(scenario)


def test_without_the_table_the_error_names_the_command_that_prints_it(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        await one.do("DROP TABLE tenure_fence")
        await one.commit()
        for attempt in (add, Session.open):
            with pytest.raises(MissingTable, match=f"tenure fence schema {one.dialect}"):
                await attempt(one, grant(7))
            await one.rollback()
        await one.begin()
        with pytest.raises(MissingTable):
            await add(one, grant(7))

    sql.run(scenario)


def test_a_user_whose_own_table_is_missing_gets_the_drivers_error(sql: Rig) -> None:
    async def scenario(one: Session) -> None:
        with pytest.raises(Exception, match="nowhere") as caught:
            await add(one, grant(7), row=Row("nowhere", {"id": 1}))
        assert not isinstance(caught.value, tenure.TenureError)

    sql.run(scenario)


# -- what the lease learns -------------------------------------------------------------------------------------------


def test_a_refused_token_is_a_lost_lease_without_a_request(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        with tenure.Client("memory://") as client, tenure.Client("memory://") as other:
            lease = client.lock("orders").acquire()
            await add(one, lease)
            other.steal("orders", lease.token)
            with other.lock("orders") as successor:
                await add(one, successor)
            assert lease.held  # it has not heard of it yet
            with pytest.raises(StaleToken):
                await add(one, lease)
            assert (lease.held, lease.lost) == (False, LossReason.REFUSED)
            with pytest.raises(LeaseLost):
                await add(one, lease)
            assert await one.value() == 2

    rig.run(scenario)


def test_a_lost_lease_is_refused_before_anything_is_asked(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        with tenure.Client("memory://") as client:
            lease = client.lock("orders").acquire()
            made = one.guard(lease)
            lease.release()
            with pytest.raises(LeaseLost):
                await made.__aenter__()
            with pytest.raises(LeaseLost):
                await add(one, lease)
            with pytest.raises(LeaseLost):
                await one.open(lease)
        assert await one.fence() is None

    rig.run(scenario)


def test_a_rightful_holder_below_the_fence_raises_an_alarm_and_keeps_its_lease(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        with tenure.Client("memory://") as client:
            lease = client.lock("orders").acquire()
            await one.open(lease.grant._replace(token=lease.token + 10, floor=lease.token + 10))
            with pytest.raises(FenceRegression) as refused:
                await add(one, lease)
            seen = lease.token + 10 if rig.driver.tells_fence else 0
            assert (refused.value.token, refused.value.fence) == (lease.token, seen)
            assert lease.held
            with pytest.raises(StaleToken):
                await add(one, lease.grant)  # nobody to ask
            lease.release()

    rig.run(scenario)


def test_an_asyncio_lease_is_asked_where_that_can_be_awaited(rig: Rig) -> None:
    async def scenario(one: Session) -> None:
        async with tenure.AsyncClient("memory://") as client:
            lease = await client.lock("orders").acquire()
            await one.open(lease.grant._replace(token=lease.token + 10, floor=lease.token + 10))
            waits = "async" in rig.driver.name
            with pytest.raises(FenceRegression if waits else StaleToken):
                await add(one, lease)
            assert lease.held is waits
            if waits:
                await lease.release()

    rig.run(scenario)


def test_a_connection_of_another_driver_is_refused() -> None:
    doors: list[Any] = [tenure.fencing.sqlite3, tenure.fencing.psycopg, tenure.fencing.asyncpg, tenure.fencing.pymysql]
    for door in doors:
        with pytest.raises(UsageError, match="connection"):
            door(object(), 7, resource="r")
    with pytest.raises(UsageError, match="no guard knows object"):
        tenure.fencing.open(object(), 7, resource="r")
