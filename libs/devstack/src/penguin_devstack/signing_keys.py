"""The development issuer's Ed25519 keys in a directory: private ones readable by their owner only, public ones as a
JWKS file replaced in one step. A key is published before it signs, and stays published until its tokens have expired."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_TOKEN_LIFETIME_S = 300
# Verifiers look at the key set about once a second and allow some seconds of clock difference.
PUBLISH_AHEAD_S = 2.0
_KEEP_AFTER_S = MAX_TOKEN_LIFETIME_S + 30


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key's id and the moment from which it signs (seconds since the epoch)."""

    kid: str
    signs_from: float


class KeyDirectory:
    """Keys in `directory`: `jwks.json` for verifiers, `signing-keys.json` and `*.pem` for issuers. Several processes
    may use one directory."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._stamp: tuple[int, int] = (0, 0)
        self._entries: list[KeyEntry] = []
        self._loaded: dict[str, Ed25519PrivateKey] = {}

    @property
    def jwks_path(self) -> Path:
        return self._directory / "jwks.json"

    def ensure(self) -> None:
        """Make the first key unless there is one. Safe to call from several processes at once."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            entries = self._read_entries()
            if entries and self.jwks_path.exists():
                return
            self._publish(entries or [self._new_key(signs_from=0.0)])

    def rotate(self) -> str:
        """Publish a new key that signs from PUBLISH_AHEAD_S on; drop keys whose last tokens have expired. Its kid."""
        with self._locked():
            entry = self._new_key(signs_from=self._clock() + PUBLISH_AHEAD_S)
            self._publish([*self._read_entries(), entry])
        return entry.kid

    def drop_expired(self) -> None:
        """Take keys out of the key set that no valid token can name any more."""
        with self._locked():
            entries = self._read_entries()
            if len(self._still_needed(entries)) != len(entries):
                self._publish(entries)

    def signing_key(self) -> tuple[str, Ed25519PrivateKey]:
        """The kid and key that sign now. Raises FileNotFoundError before ensure()."""
        status = self._entries_path.stat()
        if (stamp := (status.st_mtime_ns, status.st_ino)) != self._stamp:
            self._entries = self._read_entries()
            self._stamp = stamp
        now = self._clock()
        kid = max((entry for entry in self._entries if entry.signs_from <= now), key=lambda entry: entry.signs_from).kid
        if kid not in self._loaded:
            self._loaded[kid] = self._load(kid)
        return kid, self._loaded[kid]

    @property
    def _entries_path(self) -> Path:
        return self._directory / "signing-keys.json"

    def _still_needed(self, entries: list[KeyEntry]) -> list[KeyEntry]:
        """A key has signed its last token when its successor began to sign."""
        ordered = sorted(entries, key=lambda entry: entry.signs_from)
        now = self._clock()
        return [
            entry
            for entry, successor in zip(ordered, [*ordered[1:], None], strict=True)
            if successor is None or successor.signs_from + _KEEP_AFTER_S > now
        ]

    def _new_key(self, signs_from: float) -> KeyEntry:
        entry = KeyEntry(secrets.token_hex(8), signs_from)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _replace(self._directory / f"{entry.kid}.pem", pem, 0o600)
        return entry

    def _publish(self, entries: list[KeyEntry]) -> None:
        needed = self._still_needed(entries)
        keys = {"keys": [_public_jwk(entry.kid, self._load(entry.kid)) for entry in needed]}
        # Verifiers first: no issuer may sign with a key they cannot know.
        _replace(self.jwks_path, json.dumps(keys, indent=1).encode(), 0o644)
        _replace(self._entries_path, json.dumps([asdict(entry) for entry in needed]).encode(), 0o600)
        for entry in entries:
            if entry not in needed:
                (self._directory / f"{entry.kid}.pem").unlink(missing_ok=True)

    def _read_entries(self) -> list[KeyEntry]:
        try:
            return [KeyEntry(**fields) for fields in json.loads(self._entries_path.read_text())]
        except FileNotFoundError:
            return []

    def _load(self, kid: str) -> Ed25519PrivateKey:
        key = serialization.load_pem_private_key((self._directory / f"{kid}.pem").read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError(f"key {kid} is no Ed25519 key")
        return key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _public_jwk(kid: str, key: Ed25519PrivateKey) -> dict[str, str]:
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x}


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Write aside and rename: a reader sees the old file or the new one, never half of either."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
