"""Credentials for one cluster and one run: who has them is let in, and nobody else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_NAME = "microtome run"
_VALID_BEFORE = timedelta(days=1)
"""A node whose clock is behind shall not take the certificate for one of the future."""

_VALID = timedelta(days=60)
_ROLES = ("client", "scheduler", "worker")


def make_credentials(folder: Path) -> Any:
    """New credentials, in files of a folder, that coordinator, workers and clients share.

    A key of the curve P-256 and a certificate that it signed itself: each side shows it, and takes
    nobody who cannot show the same. What goes over the wire is encrypted (TLS 1.2 at least).

    Parameters
    ----------
    folder
        Is there, and seen by all of them; the files in it are their owner's alone to read.

    Returns
    -------
    distributed.Security
        That refuses connections without encryption.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID
    from distributed import Security

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID_BEFORE)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    shown = _kept(folder / "certificate.pem", certificate)
    own = _kept(folder / "key.pem", secret)
    of_roles = {f"tls_{role}_cert": shown for role in _ROLES}
    of_roles |= {f"tls_{role}_key": own for role in _ROLES}
    return Security(require_encryption=True, tls_ca_file=shown, **of_roles)


def _kept(path: Path, content: bytes) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return str(path)
