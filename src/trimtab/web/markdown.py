"""Markdown of strangers as HTML that is safe to show, and that hides nothing.

No raw HTML, no images, and no links: an address stays as it was written, where a reader sees it. What the
parser makes is cleaned once more, down to a few elements without attributes; two locks, one of them not ours.
"""

from __future__ import annotations

from functools import cache, lru_cache

import nh3
from markdown_it import MarkdownIt

from trimtab.hidden import visible

_ELEMENTS = {
    *("blockquote", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "ul"),
    *("table", "tbody", "td", "th", "thead", "tr"),
    *("br", "code", "em", "s", "strong"),
}
_ATTRIBUTES = {"ol": {"start"}}
LONGEST = 100_000
"""Characters that are parsed; a longer text is shown as it is."""


@lru_cache(maxsize=1024)
def to_html(text: str) -> str:
    """The text as HTML; characters that hide or turn text around have become signs.

    The signs are made last, because Markdown's `&#8238;` is such a character too.
    """
    if len(text) > LONGEST:
        return f"<pre>{nh3.clean_text(visible(text))}</pre>"
    parser = _parser()
    tokens = parser.parse(visible(text))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 3)}"  # below the page's own headings
    rendered = parser.renderer.render(tokens, parser.options, {})
    return visible(nh3.clean(rendered, tags=_ELEMENTS, attributes=_ATTRIBUTES, link_rel=None))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True})
    return parser.enable(["table", "strikethrough"]).disable(["link", "image", "autolink", "reference"])
