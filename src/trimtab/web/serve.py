"""Starting and stopping the server, and who may be let in at all.

A store in a file has one writer, and one process serves it. Over PostgreSQL there are several processes,
because Python computes in one thread at a time; uvicorn's supervisor starts them and replaces one that dies.
"""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import shlex
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from trimtab.errors import FeedbackError
from trimtab.feedback.store.facts import Person
from trimtab.feedback.store.store import Store, open_store
from trimtab.web.app import make_app
from trimtab.web.people import enter_address
from trimtab.web.settings import LOOPBACK, WebSettings

FIRST_ADMIN = "admin"
SWITCH = 0.0005
"""Seconds between two looks at whether another thread wants to run."""
SECONDS_TO_FINISH = 5
"""How long requests that are under way may take when the server is stopped."""
MOST_PROCESSES = 4
"""Over PostgreSQL, whatever the number of cores; each takes about 130 MiB."""


def serve(
    place: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: Iterable[str] = (),
    https: bool = False,
    open_browser: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the pages over a store until Ctrl-C.

    On the first start, without any account, an admin is made and a link that lets them in is said, once.

    Args:
        place: of the store, as `open_store` takes it.
        host: address to listen on. Others than this machine's own need an admin with a password.
        port: 0 takes a free one.
        names: further names under which browsers reach the server, such as that of a proxy.
        https: a proxy in front speaks https with the browsers.
        say: gets each line for the person who started it.
    Raises:
        FeedbackError: the host needs accounts, or cannot be listened on.
        StoreError: the store cannot be opened.
    """
    with open_store(place) as store:
        if not is_loopback(host):
            _refuse_without_admin(store, host)
        with _listening(host, port) as listening:
            base = _base(host, listening.getsockname()[1])
            settings = WebSettings(hosts=known_names(host, names), https=https)
            page = first_link(store, base)
            say(f"Feedback on {store.name} is served at {base}")
            if page:
                say(f"Come in once, as {FIRST_ADMIN!r}: {page}")
                say("This link is shown only now; choose a password under Account.")
            elif hint := _hint_without_password(store):
                say(hint)
            say("Ctrl-C stops the server.")
            if open_browser:
                # The socket listens already: the browser's request waits until the server is up.
                threading.Thread(target=webbrowser.open, args=(page or base,), daemon=True).start()
            if store.in_file:
                _run(store, settings, listening)
            else:
                _run_processes(place, settings, listening)
    say("Stopped. Everything that was accepted is saved.")


def is_loopback(host: str) -> bool:
    """Whether no other machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def first_link(store: Store, base: str) -> str:
    """The link that lets the first admin in, who is made here; empty where there are accounts."""
    if store.people():
        return ""
    person = store.add_person(FIRST_ADMIN, "admin")
    return enter_address(base, store.create_sign_in(person.id))


def known_names(host: str, names: Iterable[str] = ()) -> frozenset[str]:
    """What a request may be addressed to: this machine's own names, and on open addresses all of its own."""
    found = {_bracketed(host), *(_bracketed(name) for name in names), *LOOPBACK}
    if host in ("0.0.0.0", "::"):
        addresses = (one for interface in psutil.net_if_addrs().values() for one in interface)
        families = (socket.AF_INET, socket.AF_INET6)
        found |= {_bracketed(one.address.split("%")[0]) for one in addresses if one.family in families}
        found |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(found)


def _admins(store: Store) -> list[Person]:
    return [person for person in store.people() if person.role == "admin" and person.active]


def _hint_without_password(store: Store) -> str:
    """For whoever let the first link lapse; empty where an admin can sign in."""
    admins = _admins(store)
    if not admins or any(person.has_password for person in admins):
        return ""
    name = shlex.quote(admins[0].name)
    return f"No admin has a password yet. For another link: trimtab feedback users link {name}"


def _refuse_without_admin(store: Store, host: str) -> None:
    if any(person.has_password for person in _admins(store)):
        return
    raise FeedbackError(
        "other machines could reach these pages, and no admin has a password",
        where=f"--host {host}",
        fix="start it without --host, come in, choose a password under Account, then start it again",
    )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family)
    except (OSError, OverflowError) as error:
        raise FeedbackError(
            "the address cannot be listened on",
            where=f"{host}:{port}",
            found=str(error),
            fix="stop what uses it, or choose another with --port",
        ) from error


def _run(store: Store, settings: WebSettings, listening: socket.socket) -> None:
    config = _config(partial(_app, store, settings), processes=1)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has finished its work when it passes Ctrl-C on
        return


def _run_processes(place: str | Path, settings: WebSettings, listening: socket.socket) -> None:
    processes = min(MOST_PROCESSES, os.cpu_count() or 1)
    # Each counts for itself what is tried; together they let pass what one would.
    own = replace(
        settings,
        attempts=-(-settings.attempts // processes),
        attempts_by_address=-(-settings.attempts_by_address // processes),
    )
    Multiprocess(_config(partial(_app_of_its_own, place, own), processes), [listening]).run()


def _config(make: Callable[[], FastAPI], processes: int) -> uvicorn.Config:
    return uvicorn.Config(
        make,
        factory=True,
        workers=processes,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,  # it would name people's links
        server_header=False,
        proxy_headers=False,  # anybody could claim any address, and try passwords from each
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )


def _app(store: Store, settings: WebSettings) -> FastAPI:
    # A thread that computes gives way to one that has an answer to send after so long, not after 5 ms.
    sys.setswitchinterval(SWITCH)
    return make_app(store, settings)


def _app_of_its_own(place: str | Path, settings: WebSettings) -> FastAPI:
    """In one of several processes, which ends when the one that started it is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return _app(open_store(place), settings)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _base(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{_bracketed(shown)}:{port}"


def _bracketed(host: str) -> str:
    host = host.strip("[]").lower()
    return f"[{host}]" if ":" in host else host
