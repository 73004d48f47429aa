"""What a browser gets when something is refused or goes wrong: JSON for scripts, a page for people."""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from trimtab.errors import ConflictError, NotFoundError, StoreError, TrimtabError
from trimtab.hidden import visible
from trimtab.web.rendering import Pages
from trimtab.web.security import HEADERS, TooManyAttempts
from trimtab.web.sessions import NotAllowed, NotSignedIn

_STATUS: tuple[tuple[type[TrimtabError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (StoreError, 503),
    (TrimtabError, 422),
)


def add_to(app: FastAPI) -> None:
    """Register every handler."""
    app.add_exception_handler(NotSignedIn, _not_signed_in)
    app.add_exception_handler(NotAllowed, _not_allowed)
    app.add_exception_handler(TooManyAttempts, _too_many)
    app.add_exception_handler(TrimtabError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _broken)


async def _not_signed_in(request: Request, error: Exception) -> Response:
    if _by_script(request):
        return _refusal(request, 401, what="you are signed out", fix="sign in again")
    page = request.url.path if request.method == "GET" else "/"
    return RedirectResponse(f"/sign-in?next={quote(page)}", 303)


async def _not_allowed(request: Request, error: Exception) -> Response:
    return _refusal(request, 403, what=str(error))


async def _too_many(request: Request, error: Exception) -> Response:
    seconds = cast(TooManyAttempts, error).seconds
    response = _refusal(request, 429, what="too many attempts", fix=f"try again in {seconds} seconds")
    response.headers["Retry-After"] = str(seconds)
    return response


async def _refused(request: Request, error: Exception) -> Response:
    error = cast(TrimtabError, error)
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    if status == 503:  # the rest of the message is about the server's disk
        return _refusal(request, 503, what="the store does not answer", fix="try again in a moment")
    return _refusal(request, status, what=error.what, where=error.where, found=error.found, fix=error.fix)


async def _malformed(request: Request, error: Exception) -> Response:
    """Names what is wrong without repeating what was sent."""
    first = cast(RequestValidationError, error).errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return _refusal(request, 422, what=str(first["msg"]), where=where)


async def _http(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    response = _refusal(request, error.status_code, what=error.detail)
    response.headers.update(error.headers or {})
    return response


async def _broken(request: Request, error: Exception) -> Response:
    """A mistake of ours. It is answered outside the guard, and so brings the headers itself."""
    response = _refusal(request, 500, what="something is broken here", fix="try again; the log says more")
    response.headers.update(HEADERS)
    return response


def _by_script(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _refusal(
    request: Request, status: int, *, what: str, where: str = "", found: str = "", fix: str = ""
) -> Response:
    error = {"what": what, "where": where, "found": found, "fix": fix}
    if _by_script(request):
        return JSONResponse({"error": {name: visible(text) for name, text in error.items()}}, status)
    pages: Pages = request.app.state.pages
    return pages.page("refused.html", status=status, code=status, error=error)
