"""Certificates for parts that have to know each other: an authority of their own, and the certificates that it signed."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from heartwatch.platform.ports import LOOPBACK
from heartwatch.platform.state import TRUST_PASSWORD

LONG = datetime.timedelta(days=3_650)
SHORT = datetime.timedelta(days=30)
"""How long certificates hold that each `up` renews."""

_EARLIER = datetime.timedelta(minutes=5)
_AUTHORITY = "ca.pem"


def write_certificates(
    folder: Path, authority: str, names: Iterable[str] = ("own",), valid: datetime.timedelta = LONG
) -> None:
    """Write ``ca.pem``, and certificates of it for this machine's loopback interface: ``own.pem`` and ``own.key`` for "own".

    The authority's key is forgotten at once, so that nobody can make another certificate. Client and server may both use them.
    ``own.both.pem`` has key and certificate, as Kafka reads them; ``own.p12`` has them as Java's other servers do, with the
    password in ``own.password``; ``ca.p12`` is the authority as Java's clients know it, with the password `TRUST_PASSWORD`.

    Args:
        folder: where; keys are readable by their owner only, the rest where the process' umask says so.
        authority: common name of the authority, to which a certificate's own name is added.
        names: of the certificates and their files.
        valid: how long they hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = _name(f"{authority} authority")
    certificate = (
        _builder(issuer, issuer, key.public_key(), valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    for name in names:
        _write_signed(folder, name, authority if name == "own" else f"{authority}-{name}", issuer, key, valid)
    trusted = pkcs12.PKCS12Certificate(certificate, b"authority")
    encryption = serialization.BestAvailableEncryption(TRUST_PASSWORD.encode())
    _write(folder / "ca.p12", pkcs12.serialize_java_truststore([trusted], encryption))
    # Last: whoever finds it finds the rest.
    _write(folder / _AUTHORITY, certificate.public_bytes(serialization.Encoding.PEM))


def _write_signed(
    folder: Path,
    file: str,
    name: str,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    valid: datetime.timedelta,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(name), issuer, key.public_key(), valid)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(folder / f"{file}.pem", certificate.public_bytes(serialization.Encoding.PEM))
    _write(folder / f"{file}.key", secret, mode=0o600)
    _write(folder / f"{file}.both.pem", secret + certificate.public_bytes(serialization.Encoding.PEM), mode=0o600)
    password = secrets.token_urlsafe(24).encode()
    store = pkcs12.serialize_key_and_certificates(
        file.encode(), key, certificate, None, serialization.BestAvailableEncryption(password)
    )
    _write(folder / f"{file}.p12", store, mode=0o600)
    _write(folder / f"{file}.password", password, mode=0o600)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file in place of an earlier one, with its mode from the first byte on."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    new.replace(path)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + valid)
    )
