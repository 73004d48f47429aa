"""A page from a template: escaped text, pictures that plotly draws, and no word from outside run.

What is shown may be hostile. Three things keep it text: Jinja2 escapes all that is printed,
characters that could reorder or hide text are shown as signs (`trimtab.hidden`), and the page's content
security policy runs no script but its own and loads nothing from anywhere. Texts inside a figure reach
plotly without Jinja2: who draws one passes them through `plotly_text`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from trimtab.hidden import visible
from trimtab.statistics.intervals import number

Figure = dict[str, Any]
"""A plotly figure in plain data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure with the words that stand in for it where it cannot be seen."""

    key: str
    title: str
    label: str
    """What the picture shows, numbers included, for a screen reader."""
    figure: Figure
    note: str = ""
    """A few words beside the title; may be empty."""
    remark: str = ""
    """Sentences under the picture; may be empty."""


def render(template: str, *, nonce: str, pictures: Iterable[Picture], **context: object) -> str:
    """The page as text.

    Args:
        template: within the package, for example `arena/report.html`; it extends `pages/base.html`.
        nonce: marks the scripts that may run; the texts shown must not know it.
        pictures: every picture that the template places.
    """
    environment = Environment(
        loader=PackageLoader("trimtab", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = lambda value: number(value, 2)
    return environment.get_template(template).render(
        nonce=nonce,
        plotly=Markup(get_plotlyjs()),
        figures={picture.key: picture.figure for picture in pictures},
        **context,
    )


def plotly_text(text: str) -> str:
    """`text` as it is, for a figure: plotly reads tags such as links in its texts."""
    return html.escape(visible(text), quote=False)


def _shown(value: object) -> object:
    # Exactly str: Markup is our own, and plotly's source holds such characters on purpose.
    return visible(value) if type(value) is str else value
