"""A private certificate authority, and TLS in front of a server that has none: PostgreSQL's way, and as a plain stream."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from usage_pipeline.local.servers.ports import LOOPBACK

# What a client of PostgreSQL sends before TLS begins, and what the server answers (protocol, "SSL Session Encryption").
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
_YES = b"S"
Connect = Callable[[], socket.socket]


@dataclass(frozen=True)
class Authority:
    """A certificate authority that no machine knows. `file` holds its certificate."""

    file: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @classmethod
    def make(cls, folder: Path, name: str = "private") -> "Authority":
        key, subject = ec.generate_private_key(ec.SECP256R1()), _named(name)
        may_sign = x509.BasicConstraints(ca=True, path_length=0)
        certificate = _certificate(subject, key, subject, key).add_extension(may_sign, critical=True)
        file = folder / f"{name}.crt"
        file.write_bytes(certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return cls(file, key, subject)

    def server_context(self, host: str) -> ssl.SSLContext:
        """Of a server whose certificate is for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        certificate = _certificate(_named(host), key, self.name, self.key).add_extension(names, critical=False)
        file = self.file.with_name(f"{host}.pem")
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


@contextmanager
def tls_in_front_of(connect: Connect, context: ssl.SSLContext, *, asks_first: bool = False) -> Iterator[int]:
    """A loopback port that speaks TLS, and passes what it gets on to the server that `connect` reaches.

    With `asks_first` TLS begins as PostgreSQL does it, after a question in plain text.
    """
    with socket.create_server((LOOPBACK, 0)) as listening:
        threading.Thread(target=_serve, args=(listening, connect, context, asks_first), daemon=True).start()
        yield listening.getsockname()[1]
        # Which `close` alone would not end.
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, connect: Connect, context: ssl.SSLContext, asks_first: bool) -> None:
    with suppress(OSError):
        while True:
            plain, _ = listening.accept()
            threading.Thread(target=_pass_on, args=(plain, connect, context, asks_first), daemon=True).start()


def _pass_on(plain: socket.socket, connect: Connect, context: ssl.SSLContext, asks_first: bool) -> None:
    with suppress(OSError), plain:
        if asks_first:
            assert plain.recv(len(_SSL_REQUEST), socket.MSG_WAITALL) == _SSL_REQUEST
            plain.sendall(_YES)
        with context.wrap_socket(plain, server_side=True) as client, connect() as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
