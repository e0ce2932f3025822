"""What a URL says of TLS becomes one context, until a file is another."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tenure import UnsafeSetup
from tenure.engines.address import Tls
from tenure.engines.tls import context
from tests.servers import certificates

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.certificates import Certificates

pytestmark = pytest.mark.skipif(certificates.missing() is not None, reason=certificates.missing() or "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make_certificates(tmp_path_factory.mktemp("made"))


def test_a_context_is_shared_until_a_file_is_replaced(made: Certificates, tmp_path: Path) -> None:
    mine = str(tmp_path / "ca.pem")
    shutil.copy(made.authority, mine)
    first = context(Tls(ca=mine))
    assert context(Tls(ca=mine)) is first
    assert context(Tls(ca=mine), "h2") is not first

    shutil.copy(made.server, tmp_path / "next")
    os.replace(tmp_path / "next", mine)
    assert context(Tls(ca=mine)) is not first


def test_an_authority_is_trusted_alone(made: Certificates) -> None:
    (trusted,) = context(Tls(ca=made.authority)).get_ca_certs()
    assert ("commonName", "tenure tests authority") in trusted["subject"][-1]


def test_a_file_that_is_of_no_use_is_named_by_its_option(made: Certificates, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)  # whoever opens it waits for a writer
    for tls, option in (
        (Tls(ca=str(tmp_path / "none.pem")), "ca"),
        (Tls(ca=str(empty)), "ca"),
        (Tls(ca=pipe), "ca"),
        (Tls(ca=str(tmp_path)), "ca"),
        (Tls(cert=str(empty)), "cert"),
        (Tls(cert=pipe, key=made.server_key), "cert"),
        (Tls(cert=made.client, key=pipe), "key"),
        (Tls(cert=made.client, key=made.server_key), "cert"),
        (Tls(cert=made.client, key=str(tmp_path / "none.key")), "key"),
    ):
        with pytest.raises(UnsafeSetup, match=f"option {option} names"):
            context(tls)


def test_nobody_is_asked_for_the_password_of_a_key(made: Certificates, tmp_path: Path) -> None:
    locked = str(tmp_path / "locked.key")
    word = ["-aes256", "-passout", "pass:word"]
    subprocess.run(["openssl", "ec", "-in", made.client_key, "-out", locked, *word], check=True, capture_output=True)
    with pytest.raises(UnsafeSetup, match="option cert names"):
        context(Tls(cert=made.client, key=locked))
