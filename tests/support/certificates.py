"""Certificates of the tests' own: an authority, and what it signs."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Authority:
    """An authority, whose own certificate is in the file `certificate`."""

    def __init__(self, directory: Path, name: str = "an authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name
        self.certificate = directory / f"{name}.pem"
        own = self._sign(self._key, name, authority=True)
        self.certificate.write_bytes(own)

    def issue(self, name: str, common: str = "localhost") -> tuple[Path, Path]:
        """Write a certificate for a host, and its key, into files of this name."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert, private = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        cert.write_bytes(self._sign(key, common, authority=False))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert, private

    def _sign(self, key: ec.EllipticCurvePrivateKey, common: str, *, authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        issuer = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common))
            .issuer_name(_name(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        )
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(common)]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
