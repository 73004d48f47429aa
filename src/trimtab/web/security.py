"""What every request has to pass before any page sees it, and what every answer says to the browser.

Asked here: is the request addressed to us (a page elsewhere can make its own name point to this machine),
does a page of ours send it, is it of bearable size. Who sends it is asked in `sessions`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimtab.web.settings import WebSettings

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types trimtab",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers then name no origin when a form is sent, and the check below needs it.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

_SAFE = {"GET", "HEAD", "OPTIONS"}
_IMPORT = re.compile(r"/admin/projects/\d+/items")
_LONGEST_PATH = 500
"""All of ours are shorter; in a longer one a number may have more digits than Python reads."""
_PORT = re.compile(r":\d*$")


class Guard:
    """The outermost layer of the server: refuses before a byte of the body is read."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        await (refusal or self._app)(scope, receive, _with_headers(send, scope["path"]))

    def _refusal(self, method: str, path: str, headers: Headers) -> PlainTextResponse | None:
        if host_name(headers.get("host", "")) not in self._settings.hosts:
            return PlainTextResponse("This server does not go by that name.\n", 421)
        if len(path) > _LONGEST_PATH:
            return PlainTextResponse("There is no page of such a long name.\n", 414)
        if "transfer-encoding" in headers:
            return PlainTextResponse("Say the length of what you send.\n", 411)
        if _length(headers) > self._largest(path):
            return PlainTextResponse("This is more than the server takes at once.\n", 413)
        if method not in _SAFE and not self._ours(headers):
            return PlainTextResponse("Only these pages themselves may ask for this.\n", 403)
        return None

    def _largest(self, path: str) -> int:
        return self._settings.largest_import if _IMPORT.fullmatch(path) else self._settings.largest_body

    def _ours(self, headers: Headers) -> bool:
        """Whether a page of ours sends this. Every browser says so; a program that is none can say it too."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin"):
            return False
        if origin is None:
            return site is not None
        return origin == f"{self._settings.scheme}://{headers['host']}"


def host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    return _PORT.sub("", host.strip().lower())


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 1 << 62


def _with_headers(send: Send, path: str) -> Send:
    # Pages are for one person and for now; scripts and styles are asked for again, and mostly not sent again.
    cache = "no-cache" if path.startswith("/static/") else "no-store"

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update({**HEADERS, "Cache-Control": cache})
        await send(message)

    return sending


class TooManyAttempts(Exception):
    """Wait, then try again."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1, round(seconds))
        super().__init__(f"try again in {self.seconds} seconds")


class Attempts:
    """Counts what was tried in the last `within` seconds, in memory: a restart forgets it."""

    def __init__(self, within: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._within = within
        self._clock = clock
        self._lock = threading.Lock()
        self._times: dict[Hashable, list[float]] = {}

    def take(self, key: Hashable, most: int) -> None:
        """Count one attempt.

        Raises:
            TooManyAttempts: there were `most` already; this one is not counted.
        """
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            times = self._times.setdefault(key, [])
            if len(times) >= most:
                raise TooManyAttempts(times[0] + self._within - now)
            times.append(now)

    def forget(self, key: Hashable) -> None:
        """It was the right one: the person starts anew."""
        with self._lock:
            self._times.pop(key, None)

    def _forget_old(self, now: float) -> None:
        for key, times in list(self._times.items()):
            recent = [moment for moment in times if moment > now - self._within]
            if recent:
                self._times[key] = recent
            else:
                del self._times[key]
