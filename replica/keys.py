"""A clone's identity: one Ed25519 key that signs its changes and authenticates its connections."""

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from replica.disk import flush_folder
from replica.errors import StoreError

ID_SIZE = 16  # bytes of a clone id
KEY_SIZE = 32  # bytes of a raw Ed25519 key
SIGNATURE_SIZE = 64


def clone_id(public: bytes) -> bytes:
    """The id under which others know the holder of this public key: 16 bytes of its SHA-256."""
    return hashlib.sha256(public).digest()[:ID_SIZE]


class Identity:
    """A private key and what follows from it."""

    def __init__(self, private: bytes):
        self.private = private
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()
        self.id = clone_id(self.public)

    @classmethod
    def new(cls, entropy=os.urandom) -> "Identity":
        return cls(entropy(KEY_SIZE))

    @classmethod
    def load(cls, path: Path) -> "Identity":
        try:
            return cls(bytes.fromhex(path.read_text("ascii").strip()))
        except (OSError, ValueError) as error:  # no hexadecimal digits, or not as many as a key has
            raise StoreError(
                f"the clone's key {path} cannot be read: {error}",
                hint="restore that file from a backup, or join the workspace again in a new folder",
            ) from None

    def save(self, path: Path) -> None:
        """Write the key, readable by its owner only, before anything is signed with it."""
        write_private(path, self.private.hex().encode() + b"\n")

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` over `data` was made by the holder of `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; it is there whole or not at all."""
    beside = path.with_name(path.name + ".new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(beside, path)
    flush_folder(path.parent)
