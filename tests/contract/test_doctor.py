"""The doctor examines any engine, without a client that is open, and what depends on a server is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tenure import Grade, Report, UnsafeSetup, UsageError

if TYPE_CHECKING:
    from tests.contract.faces import Face


async def test_a_report_tells_where_whom_and_what(face: Face) -> None:
    client = face.client(ttl=7)
    report: Report = await face(client.doctor)
    assert not client._core.is_open, "to examine must not open"
    assert report.scope == client.scope
    assert report.ttl == 7
    assert client.capabilities <= report.capabilities <= client.capabilities | face.registered.conditional
    assert repr(report.url) in repr(client)
    assert report.findings
    assert report.worst is max(finding.grade for finding in report.findings)
    assert [f.grade for f in report.findings] == sorted((f.grade for f in report.findings), reverse=True)
    names = [finding.name for finding in report.findings]
    assert len(names) == len(set(names))
    for finding in report.findings:
        assert finding.found
        # Who is alarmed is told why, and what to do about it.
        if finding.grade >= Grade.WARNING:
            assert finding.means, finding
            assert finding.change, finding


async def test_leases_outlive_an_examination(face: Face) -> None:
    client = face.client()
    lease = await face(client.lock("name").acquire)
    before = await face(client.inspect, "name")
    await face(client.doctor)
    assert await face(client.inspect, "name") == before
    lease.check()
    await face(lease.release)


async def test_a_closed_client_examines_nothing(face: Face) -> None:
    client = face.client()
    await face(client.close)
    with pytest.raises(UsageError, match="closed"):
        await face(client.doctor)


async def test_what_depends_on_the_server_is_refused_or_granted_at_opening(face: Face) -> None:
    offered = (await face(face.client().doctor)).capabilities
    for wanted in sorted(face.registered.conditional):
        client = face.client(require={wanted})
        assert wanted not in client.capabilities
        if wanted in offered:
            await face(client.open)
            assert wanted in client.capabilities
        else:
            with pytest.raises(UnsafeSetup, match=wanted):
                await face(client.open)
