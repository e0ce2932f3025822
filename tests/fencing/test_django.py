"""What the guard of Django adds to the contract: the app with its migration and its check, `atomic`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure import fencing
from tenure.errors import MissingTable, NotRaised, StaleToken
from tests.fencing.conftest import new_url
from tests.fencing.orms import DjangoSession
from tests.fencing.stores import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fencing.servers import Servers

RESOURCE: dict[str, Any] = {"resource": "orders"}


@pytest.fixture(params=["postgresql", "sqlite", "mysql"])
def connection(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Any]:
    """An empty database of a Django project that has the app."""
    made = DjangoSession(new_url(servers, request.param)).connection
    yield made
    made.close()


@pytest.fixture
def migrated(connection: Any) -> Any:
    """The same after `migrate`, with the tests' own table."""
    migrate(connection)
    with connection.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)
    return connection


def migrate(connection: Any, *target: str) -> None:
    from django.core.management import call_command

    call_command("migrate", "tenure", *target, database=connection.alias, verbosity=0, skip_checks=True)


def value(connection: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SELECT v FROM counter WHERE id = 1")
        return cursor.fetchone()[0]


def add(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE counter SET v = v + 1 WHERE id = 1")


def test_the_migration_makes_the_tables_and_the_check_misses_them(connection: Any) -> None:
    from django.core.checks import Tags, run_checks

    def missed() -> list[str]:
        return [str(m.id) for m in run_checks(tags=[Tags.database], databases=[connection.alias])]

    assert missed() == ["tenure.E001"]
    with pytest.raises(MissingTable), fencing.django(connection, 7, **RESOURCE):
        pass
    migrate(connection)
    assert missed() == []
    with fencing.django(connection, 7, **RESOURCE):
        pass
    migrate(connection, "zero")
    assert missed() == ["tenure.E001"]


def test_no_model_is_missing_a_migration(connection: Any) -> None:
    from django.core.management import call_command

    call_command("makemigrations", "tenure", check=True, dry_run=True, verbosity=0)
    assert connection.alias


def test_outside_of_atomic_the_block_is_one(migrated: Any) -> None:
    from django.db.transaction import TransactionManagementError

    with fencing.django(migrated, 7, **RESOURCE) as same:
        assert same is migrated
        assert migrated.in_atomic_block
        add(migrated)
        with pytest.raises(TransactionManagementError):
            migrated.commit()
    with pytest.raises(ZeroDivisionError), fencing.django(migrated, 7, **RESOURCE):
        add(migrated)
        _ = 1 / 0
    assert value(migrated) == 1


def test_inside_of_atomic_the_block_only_checks(migrated: Any) -> None:
    from django.db import transaction

    with pytest.raises(NotRaised), transaction.atomic(migrated.alias), fencing.django(migrated, 7, **RESOURCE):
        pass
    fencing.open(migrated, 7, **RESOURCE)
    with transaction.atomic(migrated.alias):
        with fencing.django(migrated, 7, **RESOURCE):
            add(migrated)
        with pytest.raises(ZeroDivisionError), transaction.atomic(migrated.alias):
            add(migrated)
            _ = 1 / 0
    assert value(migrated) == 1
    fencing.open(migrated, 9, **RESOURCE)
    with pytest.raises(StaleToken), transaction.atomic(migrated.alias), fencing.django(migrated, 7, **RESOURCE):
        pass
    assert value(migrated) == 1


def test_what_waits_for_the_commit_is_called_after_it(migrated: Any) -> None:
    from django.db import transaction

    called: list[int] = []
    with fencing.django(migrated, 7, **RESOURCE):
        add(migrated)
        transaction.on_commit(lambda: called.append(value(migrated)), using=migrated.alias)
        assert not called
    assert called == [1]
