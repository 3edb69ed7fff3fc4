"""Signatures of site files (Ed25519, RFC 8032): who may say which model runs on a line.

The signature covers the model's SHA-256 and every setting, so one check covers both files.
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.dependencies import require
from agp_edge.errors import DataError, ModelError
from agp_edge.files import write_aside

if TYPE_CHECKING:
    from agp_edge.site_document import Site

__all__ = ["check_signature", "new_key", "sign_site"]


def new_key(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Make a key pair: the private key at `path` (PEM, for its owner only), the public beside it.

    Returns:
        The private key's path and the public key's, which ends in ".pub".

    Raises:
        DataError: one of the files exists; keys are not overwritten.
        DependencyError: the package `cryptography` is not installed.
    """
    ed25519, serialization = _modules()
    private_path, public_path = Path(path), Path(f"{os.fspath(path)}.pub")
    for file in (private_path, public_path):
        if file.exists():
            raise DataError(f"the key '{file}' exists and is not overwritten: choose another name")
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    private_path.parent.mkdir(parents=True, exist_ok=True)
    # created with its final permissions: a key must not be open to others even for a moment
    handle = os.open(private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(private)
    with write_aside(public_path) as aside:
        aside.write_bytes(public)
    return private_path, public_path


def sign_site(site: Site, key: str | os.PathLike[str]) -> Site:
    """The site with a signature by the private key in the PEM file `key`.

    Raises:
        DataError: the file is unreadable or no Ed25519 private key.
        DependencyError: the package `cryptography` is not installed.
    """
    ed25519, serialization = _modules()
    try:
        private = serialization.load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError) as error:  # no PEM; or with a password
        raise _no_key(key, "private", str(error)) from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise _no_key(key, "private", type(private).__name__)
    signature = private.sign(replace(site, signature=None).signed_bytes())
    return replace(site, signature=base64.b64encode(signature).decode())


def check_signature(site: Site | None, key: str | os.PathLike[str], model: str) -> None:
    """Refuse a model whose site file was not signed with the private half of `key`.

    Args:
        site: of the model; None: it has none.
        key: file with the public key, PEM.
        model: its path, for messages.

    Raises:
        ModelError: no site file, no signature, or a wrong one.
        DataError: the key is unreadable or no Ed25519 public key.
        DependencyError: the package `cryptography` is not installed.
    """
    ed25519, serialization = _modules()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  (there since _modules)

    try:
        public = serialization.load_pem_public_key(_read(key))
    except ValueError as error:
        raise _no_key(key, "public", str(error)) from error
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise _no_key(key, "public", type(public).__name__)
    if site is None or site.signature is None:
        missing = "has no site file" if site is None else "has a site file without a signature"
        raise ModelError(
            f"'{model}' {missing}, and a signature was asked for: sign it with `agp-edge sign "
            "MODEL --key KEY`"
        )
    try:
        public.verify(base64.b64decode(site.signature, validate=True), site.signed_bytes())
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise ModelError(
            f"the signature in the site file of '{model}' does not fit the key '{os.fspath(key)}': "
            "the file was changed, or signed with another key; do not run this model"
        ) from error


def _modules() -> tuple[Any, Any]:
    primitives = "cryptography.hazmat.primitives"
    return (
        require(f"{primitives}.asymmetric.ed25519", extra="sign"),
        require(f"{primitives}.serialization", extra="sign"),
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"the key '{os.fspath(path)}' cannot be read ({error.strerror})") from error


def _no_key(path: str | os.PathLike[str], kind: str, found: str) -> DataError:
    return DataError(
        f"'{os.fspath(path)}' is no Ed25519 {kind} key in PEM ({found.splitlines()[0]}): make a "
        "pair with `agp-edge sign --new-key FILE`"
    )
