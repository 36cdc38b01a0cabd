"""A certificate authority of this machine's own, for the embedded servers and for tests; never for production."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chassis.tls import PREFIX

LIFETIME: Final = timedelta(days=90)
HERE: Final = ("localhost", "127.0.0.1")


class Authority:
    """Keeps its key in memory: a new one signs after each start."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Troika on this machine")])
        self._certificate = self._signed(
            self._name, self._key.public_key(), [(x509.BasicConstraints(ca=True, path_length=0), True)]
        )

    @property
    def certificate(self) -> bytes:
        """PEM of the authority itself."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, folder: Path, caller: str, hosts: Sequence[str] = HERE) -> Path:
        """Writes tls.crt, tls.key and ca.crt for a caller that may also serve under `hosts`; returns the folder.

        Each file is put in place whole, the key first.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(PREFIX.decode() + caller)]
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.SubjectAlternativeName(names), False),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, caller)])
        signed = self._signed(subject, key.public_key(), extensions)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, content in (
            ("ca.crt", self.certificate),
            ("tls.key", private),
            ("tls.crt", signed.public_bytes(serialization.Encoding.PEM)),
        ):
            _put(folder / name, content)
        return folder

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extensions: Sequence[tuple[x509.ExtensionType, bool]]
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def _put(path: Path, content: bytes) -> None:
    aside = path.with_suffix(".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    aside.replace(path)
