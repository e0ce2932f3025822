"""Where a client's settings come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tenure import UsageError

if TYPE_CHECKING:
    from tests.contract.faces import Face


async def test_settings_come_from_the_argument_then_the_url_then_the_environment(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settled(*arguments: Any, **named: Any) -> tuple[float, str]:
        found = face.make(*arguments, **named)._core.settings
        return found.ttl, found.namespace

    monkeypatch.setenv("TENURE_URL", face.url)
    monkeypatch.setenv("TENURE_TTL", "7.5")
    monkeypatch.setenv("TENURE_NAMESPACE", "environment")
    assert settled() == (7.5, "environment")
    assert settled(face.url_with("ttl=8&namespace=url")) == (8, "url")
    assert settled(face.url_with("ttl=8&namespace=url"), ttl=9, namespace="argument") == (9, "argument")
    lease = await face(face.client(url=None).lock("name").acquire)
    assert "environment" in lease.grant.authority
    assert lease.remaining() < 7.5
    monkeypatch.setenv("TENURE_TTL", "soon")
    with pytest.raises(UsageError, match="ttl"):
        face.make()
    monkeypatch.delenv("TENURE_TTL")
    monkeypatch.delenv("TENURE_NAMESPACE")
    assert settled() == (30, "tenure")
