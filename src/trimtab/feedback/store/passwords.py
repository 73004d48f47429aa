"""Passwords and one-time secrets. Only hashes are stored, and a hash does not give back what it is of."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from trimtab.errors import FeedbackError

_hasher = PasswordHasher()  # argon2id, RFC 9106's choice for little memory


def hash_password(password: str) -> str:
    """An argon2 hash, with its parameters and salt.

    Raises:
        FeedbackError: fewer than 10 characters, or more than 1000; never shows the password.
    """
    if not 10 <= len(password) <= 1000:
        raise FeedbackError(
            "a password has 10 to 1000 characters",
            where="password",
            found=f"{len(password)} characters",
            fix="four words that do not belong together are long enough",
        )
    return _hasher.hash(_bytes(password))


def password_fits(password: str, hashed: str | None) -> bool:
    """Whether it is the password. Without a hash it takes as long: nobody learns who has an account."""
    try:
        fits = _hasher.verify(hashed or _nobodys_hash(), _bytes(password[:1001]))
    except (VerificationError, InvalidHashError):
        return False
    return fits and hashed is not None


def new_token() -> str:
    """A secret for a link or a cookie: 256 random bits."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is stored of it. A fast hash is enough: there is nothing to guess in 256 random bits."""
    return hashlib.sha256(_bytes(token)).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@cache
def _nobodys_hash() -> str:
    return _hasher.hash(secrets.token_bytes(16))
