"""HTTPS: whom a client believes, and that a redirect leads to nothing less safe."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from safetensors_core.errors import RemoteError
from safetensors_core.plugins import open_source
from tests.remote.servers import RangeServer, redirect


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that it signed itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def secure(files: Path, certificate: Path) -> Iterator[RangeServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with RangeServer(files, tls=context) as running:
        yield running


@pytest.fixture
def trusting(certificate: Path) -> dict[str, ssl.SSLContext]:
    return {"ssl": ssl.create_default_context(cafile=str(certificate))}


def test_a_file_is_read_from_a_server_that_is_trusted(
    secure: RangeServer, files: Path, trusting: dict[str, ssl.SSLContext]
) -> None:
    data = os.urandom(500_000)
    (files / "a").write_bytes(data)
    source = open_source(secure.url("a"), storage_options=trusting)
    found = bytearray(source.size)
    source.read_into(0, memoryview(found))
    assert found == data


def test_a_server_that_is_not_trusted_is_refused_at_once(secure: RangeServer) -> None:
    with pytest.raises(RemoteError, match="certificate is not valid") as caught:
        open_source(secure.url("a")).read_header()
    assert "tried" not in str(caught.value)
    assert secure.requests == []


def test_a_redirect_from_https_to_http_is_refused(
    secure: RangeServer, server: RangeServer, trusting: dict[str, ssl.SSLContext]
) -> None:
    secure.fault = lambda _: redirect(server.url("a"))
    options = {**trusting, "headers": {"Authorization": "Bearer secret"}}
    with pytest.raises(RemoteError, match="from https to http, which is not safe"):
        open_source(secure.url("a"), storage_options=options).read_header()
    assert server.requests == []


def test_a_redirect_from_http_to_https_takes_nothing_of_the_user_along(
    secure: RangeServer, server: RangeServer, files: Path, trusting: dict[str, ssl.SSLContext]
) -> None:
    (files / "a").write_bytes(b"x" * 17)
    server.fault = lambda _: redirect(secure.url("a"))
    options = {**trusting, "headers": {"Authorization": "Bearer secret"}}
    assert open_source(server.url("b"), storage_options=options).size == 17
    assert "authorization" not in secure.requests[0].headers
