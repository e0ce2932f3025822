"""The tables of fences, from the same SQL that `tenure fence schema` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.db import migrations

from tenure.fencing import schema

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def make(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
    """Make them."""
    bare = "\n".join(line.partition("--")[0] for line in schema(editor.connection.vendor).splitlines())
    for statement in filter(str.strip, bare.split(";")):
        editor.execute(statement)


def drop(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
    """Drop them, and with them all memory of who has been here."""
    for name in ("tenure_fence", "tenure_fence_intent"):
        editor.execute(f"DROP TABLE IF EXISTS {name}")


class Migration(migrations.Migration):  # type: ignore[misc]  # Django ships no types
    """Makes the tables of fences."""

    initial = True
    dependencies: ClassVar[list[tuple[str, str]]] = []
    # Not in a transaction of its own: MySQL makes no table in one. Elsewhere the whole migration is one.
    operations: ClassVar[list[Any]] = [migrations.RunPython(make, drop, atomic=False)]
