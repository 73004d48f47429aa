"""What the server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine that no other machine can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Under which names the pages are served, and how much is taken."""

    hosts: frozenset[str] = LOOPBACK
    """Names, without ports, that a request may be addressed to; IPv6 addresses stand in brackets."""
    https: bool = False
    """Whether browsers reach the server by https, through a proxy: cookies are then for https alone."""
    largest_body: int = 1 << 20
    """Bytes of one request; an import has its own limit."""
    largest_import: int = 64 << 20
    """Bytes of one file of items."""
    attempts: int = 5
    """Passwords that may be tried for one name from one address in `attempts_within` seconds."""
    attempts_by_address: int = 30
    """Passwords and links that may be tried from one address in that time."""
    attempts_within: float = 60.0

    @property
    def scheme(self) -> str:
        """What addresses of these pages begin with."""
        return "https" if self.https else "http"

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; browsers take `__Host-` as a promise that they hold us to."""
        return "__Host-trimtab" if self.https else "trimtab"
