"""A real object store for tests: moto's, as a process."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.servers import processes
from tests.servers.processes import HOST, PATIENCE, Server


@functools.cache
def missing() -> str | None:
    """Why no object store can be started on this host, or None."""
    if reason := processes.missing():
        return reason
    return None if importlib.util.find_spec("moto") else "moto is not installed"


class S3Server(Server):
    """One object store, which keeps what it has acknowledged.

    Attributes:
        url: its endpoint.
    """

    def __init__(self) -> None:
        super().__init__("s3")
        self.port = self.new_port()
        self.url = f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("s3_store.py")), str(self.port)]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONWARNINGS": "ignore"}

    def is_ready(self) -> bool:
        self.fail()
        return True

    def fail(self, *faults: dict[str, Any] | None) -> None:
        """What becomes of the next PUTs; see `s3_store`."""
        self._tell("faults", faults)

    def ignore(self, *fields: str) -> None:
        """Ignore these header fields from now on, as stores do that know no conditions."""
        self._tell("ignore", fields)

    def _tell(self, what: str, said: Any) -> None:
        request = urllib.request.Request(f"{self.url}/-/{what}", json.dumps(said).encode(), method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - loopback
            answer.read()


def client(url: str, **config: Any) -> Any:
    """A client of boto3, which by default sends each request once; the keys are the user and password of the URL."""
    import boto3
    from botocore.config import Config

    settings = {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}, **config}
    where = urlsplit(url)
    return boto3.client(
        "s3",
        endpoint_url=f"{where.scheme}://{where.netloc.rpartition('@')[2]}",
        region_name="us-east-1",
        # moto takes any.
        aws_access_key_id=where.username or "test",
        aws_secret_access_key=where.password or "test",
        config=Config(**settings),
    )
