"""Texts of strangers: Markdown without anything that runs or hides, differences, signs for what is unseen."""

from __future__ import annotations

import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.feedback.records import Candidate, Flagged, Item
from trimtab.web.differences import MOST_WORDS, differences
from trimtab.web.markdown import LONGEST, to_html

if TYPE_CHECKING:
    from conftest import Site

ALLOWED = {
    *("blockquote", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "ul", "br", "code", "em", "s", "strong"),
    *("table", "tbody", "td", "th", "thead", "tr"),
}
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "<javascript:alert(1)>",
    "[r]\n\n[r]: javascript:alert(1)",
    "<a href='data:text/html,x'>x</a>",
    "</article></main><h1>out</h1>",
    "<svg><style>*{display:none}</style></svg>",
    "<!-- hidden -->",
    "<details><summary>x</summary>hidden</details>",
    "`</code><script>alert(1)</script>`",
    "```html\n</pre><script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "|<script>|<img onerror=x>|\n|-|-|\n|a|b|",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\x00<\x00script>alert(1)</script>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
]


class Reader(HTMLParser):
    """What a browser would make of it: elements, attributes and the text that is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_comment(self, data: str) -> None:
        self.elements.add("!--")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_markdown_becomes_text(text: str) -> None:
    found = read(to_html(text))
    assert found.elements <= ALLOWED
    assert found.attributes <= {"start"}


@given(st.text(st.sampled_from(list("<>&\"'`*_[]()!#|-=/\\ \n\t1.ascriptonload:x;\u202e\x00")), max_size=80))
def test_any_markdown_becomes_text(text: str) -> None:
    found = read(to_html(text))
    assert found.elements <= ALLOWED
    assert found.attributes <= {"start"}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("[click](http://evil.example)", "[click](http://evil.example)"),
        ("![pixel](http://evil.example)", "![pixel](http://evil.example)"),
        ("<b>bold?</b>", "<b>bold?</b>"),
        ("[a]: http://evil.example 'title'", "[a]: http://evil.example 'title'"),
        ("a &#8238;b", "a \u27e6U+202E\u27e7b"),
        ("a \u202eb", "a \u27e6U+202E\u27e7b"),
        ("a\u200bb", "a\u27e6U+200B\u27e7b"),
    ],
)
def test_nothing_is_hidden(text: str, seen: str) -> None:
    assert read(to_html(text)).text.strip() == seen


def test_markdown_is_rendered_below_the_headings_of_the_page() -> None:
    html = to_html("# One\n\n**two** ~~three~~\n\n3. four\n\n|a|b|\n|-|-|\n|c|d|\n\nline\nbreak")
    for piece in (
        "<h4>One</h4>",
        "<strong>two</strong>",
        "<s>three</s>",
        '<ol start="3">',
        "<td>c</td>",
        "<br>",
    ):
        assert piece in html
    assert "<h6>" in to_html("###### deep")


def test_long_and_deep_texts_are_cheap() -> None:
    start = time.monotonic()
    assert to_html("<" * (LONGEST + 1)).startswith("<pre>&lt;")
    for text in (">" * 20_000, "[" * 20_000, "*a_" * 10_000, "`" * 20_000 + "a", "- " * 5_000, "|" * 5_000):
        to_html(text)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("first", "second", "pieces"),
    [
        ("the cat sat", "the dog sat down", (("the ", "cat", " sat"), ("the ", "dog", " sat ", "down", ""))),
        ("same", "same", (("same",), ("same",))),
        ("", "a b", (("",), ("", "a b", ""))),
        ("red fox", "big dog", (("", "red fox", ""), ("", "big dog", ""))),
        ("a  b\nc", "a b x c", (("a  b\nc",), ("a b ", "x", " c"))),
        ("Yes!", "yes.", (("", "Yes!", ""), ("", "yes.", ""))),
    ],
)
def test_differences(first: str, second: str, pieces: object) -> None:
    assert differences(first, second) == pieces


words = st.text(st.sampled_from("ab \n.\U0001f600"), max_size=40)


@given(words, words)
def test_the_pieces_are_the_texts_and_the_shared_ones_are_equal_but_for_space(
    first: str, second: str
) -> None:
    found = differences(first, second)
    assert found is not None
    assert "".join(found[0]) == first
    assert "".join(found[1]) == second
    shared = ["".join("".join(pieces[::2]).split()) for pieces in found]
    assert shared[0] == shared[1]
    for pieces in found:
        assert all(piece.strip() for piece in pieces[1::2])


def test_texts_that_are_made_to_take_long() -> None:
    half = MOST_WORDS // 2
    start = time.monotonic()
    assert differences("a x " * half, "a y " * half) is not None
    assert differences("a " * MOST_WORDS, "a " * MOST_WORDS) == (("a " * MOST_WORDS,),) * 2
    numbers = [" ".join(f"{number} {word}" for number in range(half)) for word in "xy"]
    found = differences(*numbers)
    assert found is not None
    assert found[0][1] == "x"
    assert differences("a " * (MOST_WORDS + 1), "b") is None
    assert time.monotonic() - start < 15


def test_hostile_texts_in_every_page_of_an_admin(site: Site) -> None:
    """Names are refused by the store; all else that is typed or imported is shown as text."""
    admin = site.person("admin")
    hostile = "<script>alert(1)</script>\u202e</textarea>"
    project = site.project(items=0)
    site.store.set_guidelines(project.id, hostile)
    site.store.add_items(
        project.id, [Item(prompt=hostile, answers=(Candidate(text=hostile, source=hostile),) * 2)]
    )
    (task,) = site.store.claim(project.id, admin.id, 1)
    from trimtab.feedback.records import Draft

    site.store.save(
        Draft(
            item=task.item,
            person=admin.id,
            outcome=Flagged(reason=hostile, comment=hostile),
            shown=task.shown,
            blind=True,
            guidelines=1,
            seconds=1.0,
            key="k",
        )
    )
    browser = site.browser(admin)
    for path in (
        "/",
        f"/mine/{project.id}",
        f"/projects/{project.id}/guidelines",
        f"/admin/projects/{project.id}",
        f"/admin/projects/{project.id}/quality",
        "/admin",
    ):
        text = browser.get(path).text
        assert "<script>alert" not in text
    shown = browser.get(f"/admin/projects/{project.id}").text
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;\u27e6U+202E\u27e7") >= 4
    # In the field it stays what it is, or saving the form would change it.
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\u202e&lt;/textarea&gt;</textarea>" in shown
    assert "&lt;script&gt;" in browser.get(f"/projects/{project.id}/guidelines").text
