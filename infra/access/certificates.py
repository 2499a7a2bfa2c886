"""Certificates that close the object store's gRPC ports: `python -m infra.access.certificates FOLDER` makes them once.

SeaweedFS's parts talk to each other over gRPC, and whoever reaches those ports may read and delete everything. With a
certificate they accept only clients that hold the key, which lies in a folder that only its owner reads. The key of the
authority that signs is thrown away: nobody can make another certificate.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "node.pem", "node.key"
_PARTS = ("MASTER", "VOLUME", "FILER", "S3", "ADMIN", "WORKER", "CLIENT")
_LIFETIME = timedelta(days=40 * 365)


def certificate_variables(folder: Path) -> dict[str, str]:
    """What `weed` needs in its environment to use the certificates in `folder`, made now if they are not there."""
    make_certificates(folder)
    certificate, key = str(folder / CERTIFICATE), str(folder / KEY)
    variables = {"WEED_GRPC_CA": str(folder / AUTHORITY)}
    for part in _PARTS:
        variables |= {f"WEED_GRPC_{part}_CERT": certificate, f"WEED_GRPC_{part}_KEY": key}
    return variables


def make_certificates(folder: Path) -> None:
    """Write authority, certificate and key to `folder` (mode 0700, files 0600) unless all are there."""
    if all((folder / name).is_file() for name in (AUTHORITY, CERTIFICATE, KEY)):
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority, node = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    files = {
        AUTHORITY: _signed("opsd authority", authority.public_key(), authority, is_authority=True),
        CERTIFICATE: _signed("opsd object store", node.public_key(), authority, is_authority=False),
        KEY: node.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }
    for name, content in files.items():
        draft = folder / f".{name}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_bytes(content)
        draft.replace(folder / name)


def _signed(name: str, public: ec.EllipticCurvePublicKey, by: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "opsd authority")]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # for a clock that is set back
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the certificates of one folder; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.access.certificates", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where they lie, readable by its owner only")
    make_certificates(parser.parse_args(arguments).folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
