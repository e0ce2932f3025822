"""TLS as libpq has it: who is let in, who is refused, and that no secret shows in what is said about it."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest

from tenure import Client, StoreUnavailable, TenureError, UnsafeSetup
from tenure.findings import Grade
from tests.faces.watched import Attempt, Looped, waits
from tests.postgres.rig import LONG
from tests.servers import certificates as openssl
from tests.servers import postgres
from tests.servers.certificates import make_certificates
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.certificates import Certificates

pytestmark = pytest.mark.skipif(
    (postgres.missing() or openssl.missing()) is not None, reason=str(postgres.missing() or openssl.missing())
)

WORD = "s3cr3t-w0rd"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of another authority."""
    return make_certificates(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[PostgresServer]:
    with PostgresServer(certificates=certificates) as server:
        server.run("CREATE ROLE client LOGIN")
        server.run(f"CREATE ROLE secret LOGIN PASSWORD '{WORD}'")
        Client(server.url).migrate()
        server.run("GRANT USAGE ON SCHEMA tenure TO client, secret")
        yield server


def checked(url: str, authority: str) -> str:
    """A URL that demands a certificate of the authority, for the name in the URL."""
    return f"{url}{'&' if '?' in url else '?'}sslmode=verify-full&sslrootcert={authority}"


def refused(url: str) -> str:
    """What the refusal says, in full."""
    with pytest.raises(UnsafeSetup) as caught, Client(url) as client:
        client.lock("n").try_acquire()
    return "".join(traceback.format_exception(caught.value))


def transport(url: str) -> tuple[Grade, str]:
    """What the doctor says of the connection."""
    found = next(finding for finding in Client(url).doctor().findings if finding.name == "transport")
    return found.grade, found.found


@pytest.mark.parametrize("face", [Client, Looped])
def test_leases_and_grants_pass_through_a_connection_that_is_checked(
    server: PostgresServer, certificates: Certificates, face: Any
) -> None:
    url = checked(server.url, certificates.authority)
    with face(url, ttl=LONG) as client, Client(url, ttl=LONG) as other:
        lease = other.lock("n").acquire()
        waiting: Attempt[Any] = Attempt(client.lock("n", wait=20).acquire)
        waits(other, "n")
        lease.release()
        assert waiting.outcome().token > lease.token
        # An answer of many records of TLS is one.
        held = [other.lock(f"many/{number}", info="x" * 1000).acquire() for number in range(40)]
        assert len(other.names("many/")) == 40
        for each in (*held, waiting.outcome()):
            each.release()
    used = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE application_name = %s AND ssl"
    with Client(f"{url}&application_name=seen") as client, client.lock("n"):
        assert server.run(used, "seen") != [(0,)]


def test_a_server_that_another_authority_vouches_for_is_refused(
    server: PostgresServer, strangers: Certificates
) -> None:
    assert "certificate verify failed" in refused(checked(server.url, strangers.authority))


def test_a_server_of_another_name_is_refused(server: PostgresServer, certificates: Certificates) -> None:
    elsewhere = server.url.replace("@127.0.0.1", "@db.example") + "?hostaddr=127.0.0.1"
    assert "does not match host name" in refused(checked(elsewhere, certificates.authority))


def test_positive_control_without_a_check_both_are_let_pass_and_the_doctor_says_so(server: PostgresServer) -> None:
    elsewhere = server.url.replace("@127.0.0.1", "@db.example") + "?hostaddr=127.0.0.1&sslmode=require"
    with Client(elsewhere) as client, client.lock("n"):
        grade, found = transport(elsewhere)
        assert grade is Grade.WARNING
        assert "not checked" in found


def test_the_doctor_tells_a_connection_that_is_checked(server: PostgresServer, certificates: Certificates) -> None:
    grade, found = transport(checked(server.url, certificates.authority))
    assert (grade, found) == (Grade.OK, "TLS, the server's certificate is checked, without a password")


def test_a_server_without_tls_is_refused_where_the_url_demands_it(certificates: Certificates) -> None:
    with PostgresServer() as plain:
        assert "does not support SSL" in refused(checked(plain.url, certificates.authority))


def test_a_client_is_let_in_by_its_certificate_and_by_no_other(
    server: PostgresServer, certificates: Certificates, strangers: Certificates
) -> None:
    url = checked(server.url_as("client"), certificates.authority)
    with Client(f"{url}&sslcert={certificates.client}&sslkey={certificates.client_key}") as client:
        client.lock("n").acquire().release()
    assert "certificate" in refused(url)
    stranger = f"{url}&sslcert={strangers.client}&sslkey={strangers.client_key}"
    # The server's word of it may meet a connection that is cut already.
    with pytest.raises((UnsafeSetup, StoreUnavailable)), Client(stranger) as client:
        client.lock("n").try_acquire()
    # Somebody else's, though of the same authority.
    assert "authentication failed" in refused(f"{url}&sslcert={certificates.server}&sslkey={certificates.server_key}")


def test_no_word_of_a_secret_shows_in_what_is_said(
    server: PostgresServer, certificates: Certificates, strangers: Certificates
) -> None:
    right, wrong = server.url_as("secret", WORD), server.url_as("secret", f"{WORD}-no")
    with Client(checked(right, certificates.authority)) as client, client.lock("n") as lease:
        said = [repr(client), repr(lease), repr(client.inspect("n")), repr(client.doctor())]
    said.append(refused(checked(wrong, certificates.authority)))
    said.append(refused(checked(right, strangers.authority)))
    key = f"&sslcert={certificates.client}&sslkey=/nowhere/{WORD}&sslpassword={WORD}"
    for url in (checked(right, certificates.authority) + key, checked(right, f"/nowhere/{WORD}")):
        with pytest.raises(TenureError) as caught, Client(url) as client:
            client.lock("n").try_acquire()
        # The path of a file that is not there is named: it is no secret, and somebody must find it.
        said.append("".join(traceback.format_exception(caught.value)).replace(f"/nowhere/{WORD}", ""))
    assert not [each for each in said if WORD in each]
