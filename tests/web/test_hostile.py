"""200 hostile texts through every field that a person or a file can fill, in a real browser.

No script of theirs runs, no request leaves the server's own address, nothing is wider than the page at 1440
and at 390 px. The texts are in hostile.json; the scripts in them would set `__pwned` or open a dialog.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import uvicorn

from trimtab.errors import FeedbackError
from trimtab.feedback.records import Candidate, Compared, Edited, Flagged, Item, Skipped, Written
from trimtab.feedback.store.facts import Settings
from trimtab.records import Message

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from conftest import Make, Site
    from trimtab.feedback.records import Kind
    from trimtab.feedback.store.facts import Person, Project

pytestmark = pytest.mark.slow
HOSTILE: list[str] = json.loads(Path(__file__).with_name("hostile.json").read_text(encoding="utf-8"))
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 30_000
"""Milliseconds; the machine may be busy."""

TOO_LONG = 414

# What is wrong with the page as it is now, in words. Our own pages have nothing of all this.
FIND = """() => {
  const found = [];
  if (window.__pwned !== undefined) found.push("a script ran");
  const ours = (address) => new URL(address, location.href).origin === location.origin;
  for (const element of document.querySelectorAll("*")) {
    const name = element.localName;
    if (/^(iframe|frame|object|embed|svg|math|base|style|img|video|audio|source|portal|marquee)$/.test(name))
      found.push(`<${name}>`);
    if (name === "meta" && element.httpEquiv) found.push("<meta http-equiv>");
    for (const { name: attribute, value } of element.attributes) {
      if (/^on|^style$|^srcdoc$|^ping$|^background$/.test(attribute)) found.push(`${name} ${attribute}`);
      const address = /^(href|src|action|formaction|xlink:href)$/.test(attribute);
      if (address && !ours(value)) found.push(`${name} ${value}`);
    }
  }
  for (const text of document.querySelectorAll(".rendered *, .prose *"))
    for (const { name } of text.attributes) if (name !== "start") found.push(`${text.localName} has ${name}`);
  const page = document.scrollingElement;
  if (page.scrollWidth > innerWidth) found.push(`${page.scrollWidth} px wide in ${innerWidth}`);
  return found;
}"""
PUT = """([selector, json]) => {
  const field = document.querySelector(selector);
  field.value = JSON.parse(json);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}"""


class Watched:
    """A page, and everything that goes wrong on it."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.wrong: list[str] = []
        self.looks = 0
        page.set_default_timeout(PATIENCE)
        page.on("dialog", self._dialog)
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith(f"{self.base}/"):
            self.wrong.append(f"request: {request.url[:200]}")

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.wrong.append(f"console: {message.text[:200]}")

    def look(self, about: object) -> None:
        """At both widths."""
        for size in (PHONE, WIDE):
            self.page.set_viewport_size(size)
            self.look_once(f"{about} at {size['width']} px")

    def look_once(self, about: object) -> None:
        self.looks += 1
        self.wrong += [f"{about}: {found}" for found in self.page.evaluate(FIND)]

    def go(self, path: str) -> int:
        """Gives the status of the answer."""
        answer = self.page.goto(self.base + path)
        assert answer
        return int(answer.status)

    def put(self, selector: str, text: str) -> None:
        """As if typed or pasted; playwright itself cannot send halves of surrogate pairs."""
        self.page.evaluate(PUT, [selector, json.dumps(text)])

    def submit(self, form: str) -> None:
        with self.page.expect_navigation():
            self.page.evaluate("form => document.querySelector(form).requestSubmit()", form)

    def task(self) -> str | None:
        found = self.page.evaluate("document.querySelector('article:not([hidden])')?.dataset.task")
        return None if found is None else str(found)

    def after(self, act: Callable[[], None]) -> None:
        """Until the task on the screen is another one."""
        before = self.task()
        act()
        for _ in range(PATIENCE // 10):
            if self.task() != before:
                return
            time.sleep(0.01)
        raise AssertionError("the next task does not come")

    def saved(self) -> None:
        self.page.wait_for_selector("#saving[data-state=saved]")


class Desk:
    """A server over a site's store, and a browser."""

    def __init__(self, site: Site, base: str, chromium: Browser) -> None:
        self.site, self.base, self.chromium = site, base, chromium
        self.watched: list[Watched] = []

    def sit(self, person: Person | None) -> Watched:
        context = self.chromium.new_context(viewport=WIDE)
        if person:
            token = self.site.store.start_session(person.id)
            context.add_cookies([{"name": "trimtab", "value": token, "url": self.base}])
        self.watched.append(Watched(context.new_page(), self.base))
        return self.watched[-1]

    def judge(self, person: Person, project: Project) -> Watched:
        seat = self.sit(person)
        seat.go(f"/projects/{project.id}")
        seat.page.wait_for_selector("article:not([hidden])")
        return seat

    def project(self, kind: Kind, name: str, items: Sequence[Item]) -> Project:
        made = self.site.store.create_project(name, Settings(kind=kind, overlap=2), guidelines="be fair")
        self.site.store.add_items(made.id, items)
        return made


@pytest.fixture
def desk(make_site: Make, chromium: Browser) -> Iterator[Desk]:
    site = make_site(attempts=10**6, attempts_by_address=10**6)
    config = uvicorn.Config(site.app, port=0, ws="none", lifespan="off", log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    desk = Desk(site, f"http://127.0.0.1:{port}", chromium)
    yield desk
    for seat in desk.watched:
        seat.page.context.close()
    server.should_exit = True
    thread.join()
    wrong = [one for seat in desk.watched for one in seat.wrong]
    assert not wrong, "\n".join(wrong)
    assert sum(seat.looks for seat in desk.watched) >= 2 * len(HOSTILE)


def pair(text: str, number: int) -> Item:
    prompt = text if number % 2 else (Message("system", text), Message("user", text))
    answers = (Candidate(text=text, source=text), Candidate(text=f"{text} and more {text[:200]}"))
    return Item(prompt=prompt, answers=answers, context=(text,), keywords=(text,))


def kept_as_typed(text: str) -> bool:
    """Whether it is sent as it is: pages take space from its ends, browsers have line breaks of their own."""
    return text.isprintable() and text == text.strip()


def test_the_texts_are_hostile_enough() -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) == 200
    for part in (
        "<script",
        "onerror=",
        "javascript:",
        "<svg",
        "<math",
        "<style",
        "\u202e",
        "\u200b",
        "\0",
        "\ud800",
    ):
        assert any(part in text for text in HOSTILE)


def test_prompts_answers_passages_reasons_and_comments(desk: Desk) -> None:
    project = desk.project("compare", "pairs", [pair(text, number) for number, text in enumerate(HOSTILE)])
    person = desk.site.person()
    seat = desk.judge(person, project)
    for _ in HOSTILE:
        item = int(str(seat.task()).split(":")[0])
        text = str(desk.site.store.item(item).content.context[0])
        seat.look(f"item {item}")
        for key in "rd":
            seat.page.keyboard.press(key)
            seat.look_once(f"item {item}, {key}")
        seat.page.keyboard.press("d")
        seat.put("#reason", text)
        seat.put("#comment", text)
        seat.after(lambda: seat.page.keyboard.press("1"))
    seat.saved()
    said = desk.site.store.judgments(project.id)
    assert len(said) == len(HOSTILE)
    for one in said:
        text = str(desk.site.store.item(one.item).content.context[0])
        assert isinstance(one.outcome, Compared)
        if kept_as_typed(text):
            assert (one.outcome.reason, one.outcome.comment) == (text, text)
    seat.go(f"/mine/{project.id}?most=500")
    seat.look("my judgments")
    for one in said[::5]:
        seat.go(f"/projects/{project.id}?change={one.id}")
        seat.page.wait_for_selector("article:not([hidden])")
        seat.look(f"change of {one.id}")


@pytest.mark.parametrize("kind", ["demonstrate", "edit"])
def test_demonstrations_and_edits(desk: Desk, kind: Kind) -> None:
    items = [
        Item(prompt=text, context=(text,)) if kind == "demonstrate" else pair(text, 1) for text in HOSTILE
    ]
    project = desk.project(kind, kind, items)
    seat = desk.judge(desk.site.person(), project)
    for _ in HOSTILE:
        item = int(str(seat.task()).split(":")[0])
        text = str(desk.site.store.item(item).content.prompt)
        if kind == "edit":
            seat.page.keyboard.press("1")
        seat.put("#response", text)
        seat.look(f"item {item}")
        seat.after(lambda: seat.page.click("#composer [data-act=submit]"))
    seat.saved()
    said = desk.site.store.judgments(project.id)
    assert len(said) == len(HOSTILE)
    for one in said:
        assert isinstance(one.outcome, Written | Edited)
        text = str(desk.site.store.item(one.item).content.prompt)
        if kept_as_typed(text):
            assert one.outcome.response == text
    seat.go(f"/mine/{project.id}?most=500")
    seat.look("my judgments")
    seat.go(f"/projects/{project.id}?change={said[0].id}")
    seat.page.wait_for_selector("article:not([hidden])")
    seat.look("a change")


def test_flags_and_skips(desk: Desk) -> None:
    """Each item is flagged by one and skipped by another, and the admin's page shows 50 flags."""
    admin, flagging, skipping = desk.site.person("admin"), desk.site.person(), desk.site.person()
    for start in range(0, len(HOSTILE), 50):
        texts = HOSTILE[start : start + 50]
        items = [Item(prompt=text, answers=(Candidate(text=text, source=text),) * 3) for text in texts]
        project = desk.project("rank", f"from {start}", items)
        for person, key, dialog in ((flagging, "f", "flag-dialog"), (skipping, "s", "skip-dialog")):
            seat = desk.judge(person, project)
            for _ in texts:
                item = int(str(seat.task()).split(":")[0])
                seat.look(f"item {item}")
                seat.page.keyboard.press(key)
                seat.put(f"#{dialog} input", str(desk.site.store.item(item).content.prompt))
                seat.after(lambda: seat.page.click(f"#{dialog} button[value=own]"))  # noqa: B023
            seat.saved()
            seat.go(f"/mine/{project.id}?most=500")
            seat.look("my judgments")
        said = desk.site.store.judgments(project.id, leave_out=())
        assert Counter(type(one.outcome) for one in said) == {Flagged: 50, Skipped: 50}
        head = desk.sit(admin)
        head.go(f"/admin/projects/{project.id}")
        assert head.page.locator("details:has(> .opened)").count() == 50
        head.look("flags, closed")
        head.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        head.look("flags, open")


def test_names_of_projects_and_people(desk: Desk) -> None:
    """Many are refused; the refusal shows them."""
    admin = desk.site.person("admin")
    seat = desk.sit(admin)
    for number, text in enumerate(HOSTILE):
        seat.go("/admin/projects/new")
        seat.put("[name=name]", text)
        seat.put("[name=guidelines]", text)
        seat.submit("main form")
        seat.look(f"project {number}")
        seat.go("/admin/people")
        seat.put("[name=name]", text)
        seat.submit("main form")
        seat.look_once(f"person {number}")
    assert len(desk.site.store.projects()) > 50
    assert len(desk.site.store.people()) > 50
    for path in ("/", "/admin", "/admin/people"):
        seat.go(path)
        seat.look(path)
    for person in desk.site.store.people():
        own = desk.sit(person)
        own.go("/account")
        own.look(f"account of {person.id}")
        own.page.context.close()


def test_guidelines(desk: Desk) -> None:
    project = desk.project("rate", "guided", [Item(prompt="p", answers=(Candidate(text="a"),))])
    seat = desk.sit(desk.site.person("admin"))
    for number, text in enumerate(HOSTILE):
        try:
            version = desk.site.store.set_guidelines(project.id, text)
        except FeedbackError:
            assert "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
            continue
        seat.go(f"/projects/{project.id}/guidelines?version={version}")
        seat.look(f"guidelines {number}")
        if number % 10 == 0:
            seat.go(f"/admin/projects/{project.id}")
            seat.look(f"form of guidelines {number}")
            seat.go(f"/projects/{project.id}")
            seat.page.wait_for_selector("article:not([hidden])")
            seat.page.keyboard.press("g")
            seat.page.wait_for_selector("#guidelines-dialog[open]")
            seat.look(f"dialog of guidelines {number}")


def test_coming_in(desk: Desk) -> None:
    """What a stranger can write: a name, the page to go to, a link."""
    seat = desk.sit(None)
    for number, text in enumerate(HOSTILE):
        address = quote(text, safe="", errors="replace")
        if seat.go(f"/enter/{address}") != TOO_LONG:  # that refusal is plain text
            seat.look_once(f"link {number}")
        seat.go(f"/sign-in?next={address}")
        seat.put("[name=name]", text)
        seat.put("[name=password]", text)
        seat.submit("main form")
        seat.look(f"sign-in {number}")
