"""`trimtab feedback users`: who may judge, from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimtab.cli.options import AsJson
from trimtab.cli.stores import DEFAULT_STORE, StorePlace, make_or_open, missing_package, open_existing
from trimtab.cli.tables import print_rows
from trimtab.cli.text import visible
from trimtab.errors import NotFoundError
from trimtab.feedback.store.facts import Role

if TYPE_CHECKING:
    from trimtab.feedback.store.facts import Person
    from trimtab.feedback.store.store import Store

app = typer.Typer(help="People who judge: accounts, sign-in links, passwords.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The person's name.")]
Base = Annotated[str, typer.Option("--url", help="Where the pages are served, as the person reaches them.")]
SERVED = "http://127.0.0.1:8765"


@app.command("list")
def list_users(store: StorePlace = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List everyone: role, whether they may act, and how they come in.

    Example: trimtab feedback users list
    """
    with open_existing(store) as opened:
        people = opened.people()
    if as_json:
        typer.echo(json.dumps([_as_json(person) for person in people], ensure_ascii=False))
    elif not people:
        typer.echo("nobody yet: trimtab feedback users add NAME")
    else:
        rows = [
            (p.name, p.role, "yes" if p.active else "no", "yes" if p.has_password else "no") for p in people
        ]
        print_rows([("name", "role", "active", "password"), *rows])


@app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="An admin sees results and makes projects.")] = "annotator",
    store: StorePlace = DEFAULT_STORE,
    url: Base = SERVED,
) -> None:
    """Add a person, and print a link that lets them in once, within three days.

    Example: trimtab feedback users add mara --role annotator
    """
    with make_or_open(store) as opened:
        person = opened.add_person(name, role)
        _print_link(opened, person, url)


@app.command()
def link(name: Name, store: StorePlace = DEFAULT_STORE, url: Base = SERVED) -> None:
    """Print a new link that lets a person in once, within three days.

    Example: trimtab feedback users link mara
    """
    with open_existing(store) as opened:
        _print_link(opened, _person(opened, name), url)


@app.command()
def password(name: Name, store: StorePlace = DEFAULT_STORE) -> None:
    """Set a person's password; it is asked for, twice, and not shown. They are signed out everywhere.

    Example: trimtab feedback users password mara
    """
    with open_existing(store) as opened:
        person = _person(opened, name)
        chosen = typer.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
        opened.set_password(person.id, chosen)
    typer.echo(visible(f"{person.name} comes in with this password from now on"))


@app.command()
def deactivate(name: Name, store: StorePlace = DEFAULT_STORE) -> None:
    """Sign a person out and refuse all further acts; what they judged stays.

    Example: trimtab feedback users deactivate mara
    """
    with open_existing(store) as opened:
        person = _person(opened, name)
        opened.deactivate(person.id)
    typer.echo(visible(f"{person.name} may not act any more"))


@app.command()
def reactivate(name: Name, store: StorePlace = DEFAULT_STORE) -> None:
    """Let a deactivated person in again.

    Example: trimtab feedback users reactivate mara
    """
    with open_existing(store) as opened:
        person = _person(opened, name)
        opened.reactivate(person.id)
    typer.echo(visible(f"{person.name} may act again"))


def _person(store: Store, name: str) -> Person:
    found = store.person_named(name)
    if found is None:
        names = ", ".join(person.name for person in store.people())
        raise NotFoundError(
            "there is no person of this name",
            where=name,
            found=names or "nobody",
            fix="trimtab feedback users add NAME",
        )
    return found


def _print_link(store: Store, person: Person, url: str) -> None:
    try:
        from trimtab.web.people import enter_address
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    address = enter_address(url.rstrip("/"), store.create_sign_in(person.id))
    typer.echo(visible(f"{person.name} ({person.role}) comes in once, within three days:\n{address}"))


def _as_json(person: Person) -> dict[str, Any]:
    return {
        "name": person.name,
        "role": person.role,
        "active": person.active,
        "has_password": person.has_password,
        "created_at": person.created_at.isoformat(),
    }
