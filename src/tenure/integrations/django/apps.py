"""The app and its system check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.core.checks import Error, Tags, register
from django.db import connections

if TYPE_CHECKING:
    from collections.abc import Sequence


class TenureConfig(AppConfig):  # type: ignore[misc]  # Django ships no types
    """The tables that tenure keeps in a Django project's database."""

    name = "tenure.integrations.django"
    label = "tenure"
    verbose_name = "tenure"

    def ready(self) -> None:
        """Register the check; it runs with `migrate` and with `check --database NAME`."""
        register(missing_tables, Tags.database)


def missing_tables(databases: Sequence[str] | None = None, **_: Any) -> list[Error]:
    """Find the databases that have no table of fences."""
    found = []
    for alias in databases or ():
        connection = connections[alias]
        if "tenure_fence" not in connection.introspection.table_names():
            found.append(
                Error(
                    f"the database {alias!r} has no table of fences, so tenure.fencing.django refuses to work there",
                    hint=f"python manage.py migrate tenure --database {alias}",
                    id="tenure.E001",
                )
            )
    return found
