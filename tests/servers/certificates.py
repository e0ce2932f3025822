"""Throw-away certificates, made by the `openssl` program: a private authority for one test run."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.servers.processes import PATIENCE

# Our own file, so that the host's openssl.cnf has no say. Python 3.13 refuses an authority without keyUsage, and a
# certificate that does not name its authority's key.
CONFIG = """
[req]
distinguished_name = nobody
prompt = no
[nobody]
CN = tenure tests
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[member]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
subjectAltName = IP:127.0.0.1, DNS:localhost
"""


class Certificates(NamedTuple):
    """Paths of PEM files. The server's certificate is for 127.0.0.1 and localhost, and no other name."""

    authority: str
    server: str
    server_key: str
    client: str
    client_key: str

    def context(self) -> ssl.SSLContext:
        """A client that trusts the authority and shows its own certificate."""
        made = ssl.create_default_context(cafile=self.authority)
        made.load_cert_chain(self.client, self.client_key)
        return made


def missing() -> str | None:
    """Why no certificates can be made on this host, or None."""
    return None if shutil.which("openssl") else "openssl is not installed (Debian: openssl)"


def make_certificates(folder: str | Path) -> Certificates:
    """Make an authority, and certificates of a server and of a client, in a folder."""
    folder = str(folder)
    Path(folder, "openssl.cnf").write_text(CONFIG, "utf-8")

    def make(name: str, *more: str) -> tuple[str, str]:
        certificate, key = f"{name}.pem", f"{name}.key"
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]
        subprocess.run(
            ["openssl", "req", "-x509", "-config", "openssl.cnf", *new, "-out", certificate, "-days", "7", *more],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
        return os.path.join(folder, certificate), os.path.join(folder, key)

    # The names must differ: a certificate that bears its issuer's name passes for self-signed.
    authority, _ = make("authority", "-extensions", "authority", "-subj", "/CN=tenure tests authority")
    signed = ["-CA", "authority.pem", "-CAkey", "authority.key", "-extensions", "member"]
    return Certificates(
        authority, *make("server", *signed, "-subj", "/CN=server"), *make("client", *signed, "-subj", "/CN=client")
    )
