"""Secrets at rest: AES-256-GCM under keys that lie apart from the database.

The keys are `VAULT_KEY` (base64, several separated by commas or line ends), or else those in `SECRETS_PATH/vault_key`,
which is made once and readable by one account. The first key encrypts, all decrypt: each ciphertext names its key, so a
new one can be put in front and the old ones dropped when nothing needs them any more (`manage.py rotate_vault_key`).
"""

import base64
import binascii
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from project.kernel.errors import Unavailable

KEY_BYTES, NONCE_BYTES = 32, 12


class NoKey(Unavailable):
    """This process lacks the key that a secret was encrypted with, or the ciphertext is not what was stored."""


class BadKey(ValueError):
    """A key that is none; the message names the setting, never the key."""


@dataclass(frozen=True)
class Sealed:
    """`text` is base64 of nonce and ciphertext; `key_id` says which key opens it."""

    key_id: str
    text: str


def seal(value: str, *, context: str) -> Sealed:
    """Encrypt `value`. It opens only with the same `context`: moved to another row, it is worthless."""
    key = keys()[0]
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, value.encode(), context.encode())
    return Sealed(id_of(key), base64.b64encode(nonce + sealed).decode())


def unseal(sealed: Sealed, *, context: str) -> str:
    """The value. Raises NoKey."""
    key = next((key for key in keys() if id_of(key) == sealed.key_id), None)
    if key is None:
        raise NoKey(
            f"A secret was encrypted with key {sealed.key_id}, which this process does not have. "
            "Give every host the same VAULT_KEY, or enter the secret again."
        )
    raw = base64.b64decode(sealed.text)
    try:
        return AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], context.encode()).decode()
    except InvalidTag:
        raise NoKey("A secret is not what was stored. Enter it again.") from None


def id_of(key: bytes) -> str:
    """Eight hexadecimal digits to tell keys apart; they say nothing about the key."""
    return hashlib.blake2b(key, digest_size=4, person=b"tuneloop-vault").hexdigest()


def keys() -> list[bytes]:
    """The keys of this installation, the one that encrypts first. Raises BadKey."""
    if settings.VAULT_KEY:
        return _read(settings.VAULT_KEY.replace(",", "\n"), "VAULT_KEY")
    path = key_file()
    if not path.exists():
        _make(path)
    return _read(path.read_text(), str(path))


def key_file() -> Path:
    return Path(settings.SECRETS_PATH) / "vault_key"


def add_key() -> str:
    """Put a new key in front of those of the file, and return its id."""
    key = secrets.token_bytes(KEY_BYTES)
    _replace([key, *keys()])
    return id_of(key)


def drop_keys(*, but: set[str]) -> int:
    """Remove the keys of the file that nothing needs. Returns how many; the first is always kept."""
    known = keys()
    kept = [key for place, key in enumerate(known) if place == 0 or id_of(key) in but]
    _replace(kept)
    return len(known) - len(kept)


def _read(text: str, name: str) -> list[bytes]:
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        try:
            key = base64.b64decode(line, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise BadKey(f"{name} must be {KEY_BYTES} random bytes in base64, as `openssl rand -base64 32` prints them")
        found.append(key)
    if not found:
        raise BadKey(f"{name} holds no key")
    return found


def _make(path: Path) -> None:
    """Written whole before it gets its name: of two processes that start at once, both read the same key."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    _write(draft, [secrets.token_bytes(KEY_BYTES)])
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def _replace(found: list[bytes]) -> None:
    draft = key_file().with_name(f".{key_file().name}.{os.getpid()}")
    _write(draft, found)
    draft.replace(key_file())


def _write(path: Path, found: list[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{base64.b64encode(key).decode()}\n" for key in found))
        file.flush()
        os.fsync(file.fileno())
