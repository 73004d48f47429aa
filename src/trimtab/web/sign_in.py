"""Coming in, going out, and one's own password."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from trimtab.errors import FeedbackError
from trimtab.feedback.store.facts import Person
from trimtab.feedback.store.store import Store
from trimtab.web.rendering import PagesOf
from trimtab.web.security import Attempts
from trimtab.web.sessions import (
    AnyVisitor,
    FormSender,
    SettingsOf,
    StoreOf,
    Visitor,
    end,
    find_visitor,
    start,
)
from trimtab.web.settings import WebSettings

router = APIRouter()
FoundVisitor = Annotated[Visitor | None, Depends(find_visitor)]
Text = Annotated[str, Form()]


@router.get("/sign-in")
def sign_in_page(pages: PagesOf, visitor: FoundVisitor, next: str = "/") -> Response:
    if visitor:
        return RedirectResponse(_own_page(next), 303)
    return pages.page("sign_in.html", next=_own_page(next), name="", wrong=False)


@router.post("/sign-in")
def sign_in(
    request: Request,
    store: StoreOf,
    settings: SettingsOf,
    pages: PagesOf,
    name: Text = "",
    password: Text = "",
    next: Text = "/",
) -> Response:
    person = _person_with(request, store, settings, name, password)
    if person is None:
        return pages.page("sign_in.html", next=_own_page(next), name=name[:80], wrong=True, status=403)
    return _entered(request, store, settings, person, _own_page(next))


@router.get("/enter/{token}")
def enter_page(pages: PagesOf, token: str) -> Response:
    """Opening a link changes nothing: programs that look at links in messages would use it up."""
    return pages.page("enter.html", token=token, used=False)


@router.post("/enter/{token}")
def enter(request: Request, store: StoreOf, settings: SettingsOf, pages: PagesOf, token: str) -> Response:
    _attempts(request).take(_address(request), settings.attempts_by_address)
    person = store.redeem_sign_in(token)
    if person is None:
        return pages.page("enter.html", token=token, used=True, status=403)
    return _entered(request, store, settings, person, "/")


@router.post("/sign-out")
def sign_out(sender: FormSender, store: StoreOf, settings: SettingsOf) -> Response:
    store.end_session(sender.token)
    response = RedirectResponse("/sign-in", 303)
    end(response, settings)
    return response


@router.get("/account")
def account(visitor: AnyVisitor, pages: PagesOf) -> Response:
    return pages.page("account.html", visitor, said="", problem=None)


@router.post("/account/password")
def change_password(
    request: Request,
    sender: FormSender,
    store: StoreOf,
    settings: SettingsOf,
    pages: PagesOf,
    current: Text = "",
    password: Text = "",
) -> Response:
    person = sender.person
    if person.has_password and _person_with(request, store, settings, person.name, current) is None:
        problem = FeedbackError("this is not your password", where="current password")
        return pages.page("account.html", sender, said="", problem=problem, status=403)
    try:
        store.set_password(person.id, password)
    except FeedbackError as error:
        return pages.page("account.html", sender, said="", problem=error, status=422)
    response = RedirectResponse("/account", 303)
    start(response, store, settings, person)
    return response


def _person_with(
    request: Request, store: Store, settings: WebSettings, name: str, password: str
) -> Person | None:
    """The person whose password this is; few wrong ones can be tried."""
    attempts, address = _attempts(request), _address(request)
    attempts.take(address, settings.attempts_by_address)
    attempts.take((address, name.strip().casefold()), settings.attempts)
    person = store.verify_password(name, password)
    if person:
        attempts.forget((address, name.strip().casefold()))
    return person


def _entered(request: Request, store: Store, settings: WebSettings, person: Person, page: str) -> Response:
    if token := request.cookies.get(settings.cookie):
        store.end_session(token)
    response = RedirectResponse(page, 303)
    start(response, store, settings, person)
    return response


def _own_page(path: str) -> str:
    """The path if it is one of ours: browsers read `//name` and `/\\name` as addresses of other servers."""
    ours = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if ours else "/"


def _attempts(request: Request) -> Attempts:
    attempts: Attempts = request.app.state.attempts
    return attempts


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
