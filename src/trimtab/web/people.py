"""The page of admins about people: accounts, links that let them in, letting go."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from trimtab.feedback.store.facts import Person, Role
from trimtab.feedback.store.store import SIGN_IN_FOR, Store
from trimtab.web.rendering import Pages, PagesOf
from trimtab.web.sessions import Admin, AdminSender, SettingsOf, StoreOf, Visitor
from trimtab.web.settings import WebSettings

router = APIRouter(prefix="/admin/people")


@router.get("")
def people(visitor: Admin, store: StoreOf, pages: PagesOf) -> Response:
    return pages.page("admin_people.html", visitor, people=store.people(), link=None)


@router.post("")
def add(
    request: Request,
    sender: AdminSender,
    store: StoreOf,
    settings: SettingsOf,
    pages: PagesOf,
    name: Annotated[str, Form()],
    role: Annotated[Role, Form()] = "annotator",
) -> Response:
    person = store.add_person(name, role)
    return _with_link(request, sender, store, settings, pages, person)


@router.post("/{person:int}/link")
def new_link(
    request: Request, person: int, sender: AdminSender, store: StoreOf, settings: SettingsOf, pages: PagesOf
) -> Response:
    return _with_link(request, sender, store, settings, pages, store.person(person))


@router.post("/{person:int}/deactivate")
def deactivate(person: int, sender: AdminSender, store: StoreOf) -> Response:
    store.deactivate(person)
    return RedirectResponse("/admin/people", 303)


@router.post("/{person:int}/reactivate")
def reactivate(person: int, sender: AdminSender, store: StoreOf) -> Response:
    store.reactivate(person)
    return RedirectResponse("/admin/people", 303)


def enter_address(base: str, token: str) -> str:
    """Where a person comes in once.

    Args:
        base: how the pages are reached: `http://127.0.0.1:8765`.
    """
    return f"{base}/enter/{token}"


def _with_link(
    request: Request, sender: Visitor, store: Store, settings: WebSettings, pages: Pages, person: Person
) -> Response:
    """The list, and the link of one person: it is shown here and never again, so this does not redirect."""
    token = store.create_sign_in(person.id)
    link = {
        "name": person.name,
        "address": enter_address(f"{settings.scheme}://{request.headers['host']}", token),
        "days": SIGN_IN_FOR.days,
    }
    return pages.page("admin_people.html", sender, people=store.people(), link=link)
