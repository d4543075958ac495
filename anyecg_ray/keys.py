"""API keys: made once, shown once, kept as hashes, revoked by a word in a file.

A key is 256 random bits, so that a fast hash is enough: nobody guesses one, and a slow hash would only let strangers
keep the server busy. A line of the file, or an item of ANYECG_API_KEYS (parted by commas or spaces), is
`NAME:sha256:HEX` or `NAME:sha256:HEX:revoked`. The name is what the log calls the key's holder.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic_settings import CliPositionalArg

from anyecg_ray import storage
from anyecg_ray.config import InputError, Location, Settings
from anyecg_ray.http_problems import Problem
from anyecg_ray.storage import MissingObject, StorageError

VARIABLE = "ANYECG_API_KEYS"
PREFIX = "anyecg_"
"""What a key begins with, so that scanners of repositories know one that leaked."""

FRESH_S = 5.0
"""Seconds after which the file is read again: a key that was revoked works no longer than that."""

_LINE = re.compile(r"([A-Za-z0-9._@-]{1,64}):sha256:([0-9a-f]{64})(:revoked)?")


@dataclass(frozen=True)
class Key:
    """One key as it is kept."""

    name: str
    digest: bytes
    revoked: bool

    def line(self) -> str:
        """The key as the file has it."""
        return f"{self.name}:sha256:{self.digest.hex()}" + (":revoked" if self.revoked else "")


class Keys(Settings):
    """Make, revoke and list the keys of `anyecg serve`; without a file the line for ANYECG_API_KEYS is printed."""

    action: CliPositionalArg[Literal["add", "revoke", "list"]]
    """add: make a key and print it, once. revoke: let a name's keys work no more. list: who has one."""

    name: str | None = None
    """Whose key: letters, digits and . _ @ - (no patient's name: it stands in the log)."""

    file: Location | None = None
    """File of the keys, as `anyecg serve --keys` reads it."""


def keys(settings: Keys) -> None:
    """Change or list the file's keys. Raises InputError where the name or the file will not do."""
    found = _read(settings.file) if settings.file else []
    if settings.action == "list":
        print("\n".join(f"{k.name:30} {'revoked' if k.revoked else 'active'}" for k in found) or "no keys")
        return
    name = settings.name or ""
    if not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", name):
        raise InputError(f"setting name: {name!r}; give --name, 1 to 64 letters, digits and . _ @ -")
    if settings.action == "add":
        secret, key = made(name)
        if settings.file:
            _write(settings.file, [*found, key])
        print(f"key of {name}, shown this once: {secret}\n" + ("" if settings.file else f"{VARIABLE}={key.line()}\n"))
        return
    if not settings.file:
        raise InputError("setting file: is missing; give --file, or take the item out of " + VARIABLE)
    if not any(k.name == name and not k.revoked for k in found):
        raise InputError(f"{settings.file}: no active key of {name}; `anyecg keys list` names those that there are")
    _write(settings.file, [Key(k.name, k.digest, k.revoked or k.name == name) for k in found])
    print(f"{name}: revoked, known to servers within {FRESH_S:g} s")


def made(name: str) -> tuple[str, Key]:
    """(the secret, what is kept of it)."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, Key(name, _digest(secret), False)


def from_text(text: str, where: str) -> list[Key]:
    """The keys of a file or of the variable. Raises InputError, which shows no part of a line."""
    items = [item for line in text.splitlines() for item in re.split(r"[\s,]+", line.partition("#")[0]) if item]
    found = []
    for n, item in enumerate(items, 1):
        match = _LINE.fullmatch(item)
        if match is None:
            raise InputError(f"{where}: key {n} is not NAME:sha256:HEX; `anyecg keys add` makes one")
        found.append(Key(match[1], bytes.fromhex(match[2]), bool(match[3])))
    return found


class Gate:
    """Who may come in. The file is read anew while the server runs."""

    def __init__(self, file: str | None, given: str = "") -> None:
        self._given = from_text(given, VARIABLE)
        self._file = file
        self._keys = [*self._given, *(_read(file) if file else [])]
        self._read_at = time.monotonic()
        if not any(not k.revoked for k in self._keys):
            where = file or VARIABLE
            raise InputError(f"{where}: holds no active key; make one with `anyecg keys add`, or give --no-auth")

    def admit(self, secret: str | None) -> str:
        """The name of the key's holder. Raises Problem: 401 for none or a wrong one, 403 for a revoked one."""
        mend = "send the header Authorization: Bearer KEY"
        challenge = {"WWW-Authenticate": 'Bearer realm="anyecg"'}
        if secret is None:
            raise Problem(401, "no_key", "this server asks for an API key", mend, "Authorization", challenge)
        key = _found(self._keys, _digest(secret))
        if key is None:
            raise Problem(401, "wrong_key", "the API key is not known here", mend, "Authorization", challenge)
        if key.revoked:
            detail, mend = "the API key was revoked", "ask whoever runs this server for another"
            raise Problem(403, "revoked_key", detail, mend, "Authorization")
        return key.name

    def stale(self) -> bool:
        """Whether `refresh` is due."""
        return self._file is not None and time.monotonic() - self._read_at > FRESH_S

    def refresh(self) -> None:
        """Read the file again. If it is gone or malformed, only the keys of ANYECG_API_KEYS count.

        If storage fails, the keys stay as they were.
        """
        assert self._file is not None
        self._read_at = time.monotonic()
        try:
            self._keys = [*self._given, *_read(self._file, missing_is_empty=False)]
        except InputError as error:
            if isinstance(error, MissingObject) or not isinstance(error, StorageError):
                self._keys = list(self._given)


def from_environment() -> str:
    """The text of ANYECG_API_KEYS: hashes, no secrets."""
    return os.environ.get(VARIABLE, "")


def _found(kept: Iterable[Key], digest: bytes) -> Key | None:
    """The key with this digest; every one is compared, in constant time, whichever it is."""
    match = None
    for key in kept:
        if hmac.compare_digest(key.digest, digest):
            match = key
    return match


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _read(file: str, missing_is_empty: bool = True) -> list[Key]:
    try:
        text = storage.read_bytes(file).decode()
    except MissingObject:
        if missing_is_empty:
            return []
        raise
    except UnicodeDecodeError:
        raise InputError(f"{file}: not a file of keys; `anyecg keys add` makes one") from None
    return from_text(text, file)


def _write(file: str, kept: list[Key]) -> None:
    storage.write_atomic(file, "".join(k.line() + "\n" for k in kept).encode())
