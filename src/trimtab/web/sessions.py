"""Who sends a request: one look into the store for each.

A session is a random secret in a cookie that scripts cannot read and that other sites' requests do not carry.
Beside it, whatever changes something must name the session's second secret, which only our pages know.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Form, Header, Request
from starlette.responses import Response

from trimtab.feedback.store.facts import Person
from trimtab.feedback.store.store import SESSION_FOR, Store
from trimtab.web.settings import WebSettings


class NotSignedIn(Exception):
    """Nobody knows who sends this."""


class NotAllowed(Exception):
    """It is known who sends this, and it is not theirs to do."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A person who is signed in."""

    person: Person
    token: str

    @property
    def csrf(self) -> str:
        """The second secret. It follows from the first, which does not follow from it."""
        return hashlib.sha256(f"csrf {self.token}".encode()).hexdigest()

    def check(self, csrf: str) -> None:
        """Raise NotAllowed unless it is the second secret."""
        if not secrets.compare_digest(self.csrf.encode(), csrf.encode("utf-8", "replace")):
            raise NotAllowed("This page is out of date. Load it again, then try once more.")


async def store_of(request: Request) -> Store:
    """The store that the server was started with."""
    return cast(Store, request.app.state.store)


async def settings_of(request: Request) -> WebSettings:
    """What the server was told when it started."""
    return cast(WebSettings, request.app.state.settings)


StoreOf = Annotated[Store, Depends(store_of)]
SettingsOf = Annotated[WebSettings, Depends(settings_of)]


# What asks the store runs in a thread; all else here takes no time, and a thread would only cost some.


def find_visitor(request: Request, store: StoreOf, settings: SettingsOf) -> Visitor | None:
    """Who is signed in, if anyone."""
    token = request.cookies.get(settings.cookie)
    person = store.find_session(token) if token else None
    return Visitor(person, token) if person and token else None


async def visitor(found: Annotated[Visitor | None, Depends(find_visitor)]) -> Visitor:
    if found is None:
        raise NotSignedIn
    return found


async def admin(visitor: Annotated[Visitor, Depends(visitor)]) -> Visitor:
    if visitor.person.role != "admin":
        raise NotAllowed("This page is for admins.")
    return visitor


async def form_sender(
    visitor: Annotated[Visitor, Depends(visitor)], csrf: Annotated[str, Form()] = ""
) -> Visitor:
    visitor.check(csrf)
    return visitor


async def admin_sender(
    visitor: Annotated[Visitor, Depends(admin)], csrf: Annotated[str, Form()] = ""
) -> Visitor:
    visitor.check(csrf)
    return visitor


async def script_sender(
    visitor: Annotated[Visitor, Depends(visitor)], x_csrf_token: Annotated[str, Header()] = ""
) -> Visitor:
    visitor.check(x_csrf_token)
    return visitor


AnyVisitor = Annotated[Visitor, Depends(visitor)]
Admin = Annotated[Visitor, Depends(admin)]
FormSender = Annotated[Visitor, Depends(form_sender)]
AdminSender = Annotated[Visitor, Depends(admin_sender)]
ScriptSender = Annotated[Visitor, Depends(script_sender)]


def start(response: Response, store: Store, settings: WebSettings, person: Person) -> None:
    """Sign the person in, in the browser that gets this response."""
    response.set_cookie(
        settings.cookie,
        store.start_session(person.id),
        max_age=int(SESSION_FOR.total_seconds()),
        secure=settings.https,
        httponly=True,
        samesite="lax",
    )


def end(response: Response, settings: WebSettings) -> None:
    """Take the cookie away from the browser that gets this response."""
    response.delete_cookie(settings.cookie, secure=settings.https, httponly=True, samesite="lax")
