"""Ctrl-C in a thread that asks a real server, waits or releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cancellation.moments import SCENES, at_every_moment
from tests.servers import zookeeper
from tests.zookeeper.rig import url as url_of

if TYPE_CHECKING:
    from tests.cancellation.moments import Scene
    from tests.servers.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.skipif(zookeeper.missing() is not None, reason=zookeeper.missing() or "")


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.filterwarnings("ignore")  # a lease that nobody got is collected, and so is a coroutine not yet begun
def test_ctrl_c_at_any_moment(server: ZooKeeperServer, scene: Scene) -> None:
    at_every_moment(url_of(server, f"/{scene.__name__}"), scene)
