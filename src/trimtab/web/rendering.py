"""Pages from templates: every value is escaped, and characters that hide or turn text around become signs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from trimtab.hidden import visible
from trimtab.web.markdown import to_html
from trimtab.web.sessions import Visitor


class Pages:
    """The templates, read once."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("trimtab.web"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_shown,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # What `to_html` gives is clean; nothing else in the templates is taken for HTML.
        self._environment.filters["markdown"] = lambda text: Markup(to_html(text))
        self._environment.filters["moment"] = _moment
        self._environment.filters["duration"] = _duration

    def page(
        self, template: str, visitor: Visitor | None = None, *, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """A template filled in; `visitor` decides what stands in the head of the page."""
        text = self._environment.get_template(template).render(visitor=visitor, **context)
        return HTMLResponse(text, status)


async def pages_of(request: Request) -> Pages:
    return cast(Pages, request.app.state.pages)


PagesOf = Annotated[Pages, Depends(pages_of)]


def _shown(value: object) -> object:
    return visible(value) if type(value) is str else value


def _moment(moment: datetime | str) -> str:
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    """For people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
