"""What the guard of SQLAlchemy adds to the contract: the ORM's flush, modes in which nothing begins, whose session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from tenure import fencing
from tenure.errors import NotRaised, StaleToken, UsageError
from tests.fencing.conftest import new_url
from tests.fencing.orms import AIO_ENGINES, ENGINES, AlchemySession, alchemy_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tests.fencing.servers import Servers

RESOURCE: dict[str, Any] = {"resource": "orders"}


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    v: Mapped[int]


@pytest.fixture(params=["postgresql", "sqlite", "mysql"])
def url(request: pytest.FixtureRequest, servers: Servers) -> str:
    """A store with the tables."""
    made = new_url(servers, request.param)
    session = AlchemySession(made, Session)
    for coroutine in (session.prepare(), session.close()):
        with pytest.raises(StopIteration):
            coroutine.send(None)
    return made


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = create_engine(alchemy_url(url, ENGINES)[1], poolclass=NullPool)
    yield made
    made.dispose()


def value(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT v FROM counter WHERE id = 1")).scalar()


def test_what_a_session_flushes_at_its_commit_is_under_the_check(engine: Engine) -> None:
    with Session(engine) as session, fencing.sqlalchemy(session, 7, **RESOURCE) as guarded:
        counter = guarded.get_one(Counter, 1)
        counter.v += 1
    assert value(engine) == 1
    with Session(engine) as session:
        fencing.open(session, 9, **RESOURCE)
        with session.begin(), fencing.sqlalchemy(session, 9, **RESOURCE):
            session.scalars(select(Counter).where(Counter.id == 1)).one().v += 1
    assert value(engine) == 2
    with Session(engine) as session, pytest.raises(StaleToken), fencing.sqlalchemy(session, 7, **RESOURCE):
        session.get_one(Counter, 1).v += 1
    assert value(engine) == 2


def test_a_session_that_has_work_pending_has_begun(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Counter(id=5, v=0))
        with pytest.raises(NotRaised), fencing.sqlalchemy(session, 7, **RESOURCE):
            pass
        with pytest.raises(UsageError, match="commit"):
            fencing.open(session, 7, **RESOURCE)


def test_nothing_comes_after_a_commit_inside_of_the_block(engine: Engine) -> None:
    with Session(engine) as session, pytest.raises(InvalidRequestError), fencing.sqlalchemy(session, 7, **RESOURCE):
        session.execute(text("UPDATE counter SET v = 5"))
        session.commit()
        session.execute(text("UPDATE counter SET v = 9"))
    assert value(engine) == 5


def test_a_savepoint_is_the_users_own(engine: Engine) -> None:
    with Session(engine) as session, fencing.sqlalchemy(session, 7, **RESOURCE):
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.execute(text("UPDATE counter SET v = 9"))
            _ = 1 / 0
        session.execute(text("UPDATE counter SET v = v + 1"))
    assert value(engine) == 1


@pytest.mark.parametrize("is_engines", [True, False], ids=["of the engine", "of the connection"])
def test_under_autocommit_there_is_nothing_to_guard(url: str, is_engines: bool) -> None:
    address = alchemy_url(url, ENGINES)[1]
    level: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
    engine = create_engine(address, poolclass=NullPool, **(level if is_engines else {}))
    with engine.connect().execution_options(**({} if is_engines else level)) as connection:
        with pytest.raises(UsageError, match="AUTOCOMMIT"), fencing.sqlalchemy(connection, 7, **RESOURCE):
            pass
        with pytest.raises(UsageError, match="AUTOCOMMIT"):
            fencing.open(connection, 7, **RESOURCE)
        connection.execute(text("SELECT 1"))
        with pytest.raises((UsageError, NotRaised)), fencing.sqlalchemy(connection, 7, **RESOURCE):
            pass
    engine.dispose()


def test_a_scoped_session_is_the_session_of_its_thread(engine: Engine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    with fencing.sqlalchemy(scoped, 7, **RESOURCE):
        scoped.get_one(Counter, 1).v += 1
    scoped.remove()
    assert value(engine) == 1


def test_a_cancelled_task_leaves_nothing_behind(url: str, engine: Engine) -> None:
    if alchemy_url(url, ENGINES)[0] != "postgresql":
        pytest.skip("of these stores' asyncio drivers, one is asked: that of PostgreSQL")

    async def scenario() -> None:
        aio = create_async_engine(alchemy_url(url, AIO_ENGINES)[1], poolclass=NullPool)
        inside = asyncio.Event()

        async def work() -> None:
            async with AsyncSession(aio) as session, fencing.sqlalchemy(session, 7, **RESOURCE):
                await session.execute(text("UPDATE counter SET v = 9"))
                inside.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with AsyncSession(aio) as session, fencing.sqlalchemy(session, 9, **RESOURCE):
            pass
        await aio.dispose()

    asyncio.run(scenario())
    assert value(engine) == 0


def test_another_database_is_refused() -> None:
    class Dialect:
        name = "oracle"

    class Foreign(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return self

        dialect = Dialect()

    with pytest.raises(UsageError, match="oracle"):
        fencing.sqlalchemy(Foreign(), 7, **RESOURCE)
