"""Changes of the steps after which leases and transactions take no notice of each other, for controls."""

from __future__ import annotations

from typing import Final

GRANTS_WHATEVER: Final = ("SELECT pg_try_advisory_xact_lock_shared(name_lock(p_name))", "SELECT true")
"""Steps that take no notice of transactions."""

SEES_NO_CLAIM: Final = (
    ("c.name = p_name AND ends_us(c) > now_us() LIMIT 1", "false"),
    ("            is_free := is_over(c, at);\n", "            is_free := true;\n"),
)
"""Transactions that take no notice of claims."""
