"""The application: routes, what every request passes through, what is answered when something is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from trimtab.feedback.store.store import Store
from trimtab.web import admin, judging, people, refusals, sign_in, work
from trimtab.web.rendering import Pages
from trimtab.web.security import Attempts, Guard
from trimtab.web.settings import WebSettings

THREADS_FOR_A_FILE, THREADS_FOR_A_SERVER = 2, 4
"""That ask the store at a time: more wait for a file's one writer, and for each other; a server is waited for
while others compute (figures: docs/log.md)."""


@asynccontextmanager
async def _few_threads(app: FastAPI) -> AsyncIterator[None]:
    threads = THREADS_FOR_A_FILE if app.state.store.in_file else THREADS_FOR_A_SERVER
    current_default_thread_limiter().total_tokens = threads
    yield


def make_app(store: Store, settings: WebSettings) -> FastAPI:
    """The pages over one open store; who makes it closes the store."""
    app = FastAPI(
        title="trimtab feedback", openapi_url=None, docs_url=None, redoc_url=None, lifespan=_few_threads
    )
    app.state.store = store
    app.state.settings = settings
    app.state.pages = Pages()
    app.state.attempts = Attempts(settings.attempts_within)
    for module in (sign_in, work, judging, admin, people):
        app.include_router(module.router)
    app.mount("/static", StaticFiles(packages=[("trimtab.web", "static")]))
    app.add_middleware(Guard, settings=settings)
    refusals.add_to(app)
    return app
