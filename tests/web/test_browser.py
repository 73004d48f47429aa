"""The judging page in a real browser: keys, undo, lost connections, restarts, several people at once."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trimtab.feedback.records import (
    Compared,
    Edited,
    Flagged,
    Graded,
    Judgment,
    Kind,
    Ranked,
    Skipped,
    Written,
)
from trimtab.feedback.store.facts import Person, Project
from trimtab.web.shown import as_shown

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from conftest import Make, Site

pytestmark = pytest.mark.slow
PATIENCE = 20_000
"""Milliseconds; the machine may be busy."""

SERVE = """
import sys
from trimtab.web.serve import serve
serve(sys.argv[1], port=int(sys.argv[2]))
"""


class Server:
    """The real server in a process of its own, which can be stopped and started again."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", SERVE, str(self.place), str(self.port)]
        self._process = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
        )
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()


class Desk:
    """A server over a site's store, and people in front of browsers."""

    def __init__(self, site: Site, server: Server, chromium: Browser) -> None:
        self.site, self.server, self.chromium = site, server, chromium
        self.contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    def sit(self, person: Person, project: Project, path: str = "", **options: Any) -> Page:
        """A person before the judging page, with the first task on the screen."""
        context = self.chromium.new_context(**options)
        self.contexts.append(context)
        token = self.site.store.start_session(person.id)
        context.add_cookies([{"name": "trimtab", "value": token, "url": self.server.base}])
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._console)
        page.goto(f"{self.server.base}/projects/{project.id}{path}")
        page.wait_for_selector("article:not([hidden])")
        return page

    def _console(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def said(self, project: Project, number: int) -> list[Judgment]:
        """Live judgments as stored, once there are as many."""
        for _ in range(100):
            found = self.site.store.judgments(project.id, leave_out=())
            if len(found) == number:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{len(found)} judgments are stored, not {number}")


@pytest.fixture
def desk(make_site: Make, tmp_path: Path, chromium: Browser) -> Iterator[Desk]:
    site = make_site()
    server = Server(tmp_path / "feedback0.sqlite")
    site.person("admin")  # or serve would make one
    server.start()
    desk = Desk(site, server, chromium)
    yield desk
    for context in desk.contexts:
        context.close()
    server.kill()
    assert desk.problems == []


def task(page: Page) -> str:
    return str(page.locator("article:not([hidden])").get_attribute("data-task"))


def saved(page: Page) -> None:
    page.wait_for_selector("#saving[data-state=saved]")


def until(holds: Callable[[], object]) -> None:
    """Wait in Python: the page's policy lets nobody, and no test either, run text as a script."""
    for _ in range(PATIENCE // 20):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it never happened")


def on_screen(page: Page) -> str | None:
    """The task on the screen, if there is one."""
    found = page.evaluate("document.querySelector('article:not([hidden])')?.dataset.task")
    return None if found is None else str(found)


def press(page: Page, key: str) -> None:
    """One key, and the next task (or the end) after it."""
    before = task(page)
    page.keyboard.press(key)
    until(lambda: on_screen(page) != before)


def test_twenty_pairs_by_keyboard_alone(desk: Desk) -> None:
    person, project = desk.site.person(), desk.site.project(items=20)
    page = desk.sit(person, project)
    keys = ["1", "2", "ArrowLeft", "ArrowRight", "0", "t", "b", "1", "Shift+Digit3", "2"] * 2
    meant = ["first", "second", "first", "second", "tie", "tie", "both_bad", "first", None, "second"] * 2
    expected = {}
    for index, (key, said) in enumerate(zip(keys, meant, strict=True)):
        if said is None:  # strength: belongs to the next choice
            page.keyboard.press(key)
            continue
        expected[task(page)] = (said, 3 if keys[index - 1] == "Shift+Digit3" else None)
        press(page, key)
    for _ in range(2):
        expected[task(page)] = ("first", None)
        press(page, "1")
    page.wait_for_selector("text=All done for now")
    found = {}
    for one in desk.said(project, 20):
        shown = as_shown(one.outcome, one.shown)
        found[f"{one.item}:{one.round}"] = (shown["preferred"], shown["strength"])
        assert 0 < one.seconds < 60
        assert one.guidelines == 1
        assert one.blind
    assert found == expected


def test_the_next_pair_is_painted_at_once(desk: Desk) -> None:
    """From the key press to the end of the frame with the next pair, by the page's own clock."""
    project = desk.site.project(items=40)
    page = desk.sit(desk.site.person(), project)
    page.wait_for_timeout(500)
    page.evaluate(
        """() => {
          window.times = [];
          addEventListener("keydown", (event) => {
            requestAnimationFrame(() => setTimeout(() => times.push(performance.now() - event.timeStamp)));
          }, true);
        }"""
    )
    for index in range(30):
        press(page, "12"[index % 2])
        page.wait_for_timeout(60)
    times = sorted(page.evaluate("times"))
    assert len(times) == 30
    print(
        f"key to paint: median {statistics.median(times):.1f} ms, "
        f"95 % {times[28]:.1f} ms, most {times[-1]:.1f} ms"
    )
    assert statistics.median(times) < 50
    assert times[28] < 50


def test_undo_before_and_after_the_save_and_after_a_reload(desk: Desk) -> None:
    project = desk.site.project(items=6)
    page = desk.sit(desk.site.person(), project)
    first = task(page)
    press(page, "1")
    saved(page)
    second = task(page)
    press(page, "2")
    saved(page)
    press(page, "u")
    assert task(page) == second
    press(page, "u")
    assert task(page) == first
    saved(page)
    desk.said(project, 0)
    press(page, "2")
    saved(page)
    (one,) = desk.said(project, 1)
    assert as_shown(one.outcome, one.shown)["preferred"] == "second"
    page.reload()
    page.wait_for_selector("article:not([hidden])")
    page.keyboard.press("u")
    until(lambda: on_screen(page) == first)
    desk.said(project, 0)


def test_offline_and_back(desk: Desk) -> None:
    project = desk.site.project(items=8)
    page = desk.sit(desk.site.person(), project)
    page.wait_for_timeout(300)
    page.context.set_offline(True)
    judged = []
    for key in ("1", "2", "0"):
        judged.append(task(page))
        press(page, key)
    page.wait_for_selector("#saving[data-state=offline]")
    assert "3 waiting" in page.inner_text("#saving")
    press(page, "u")  # what was never sent is taken back here
    assert task(page) == judged.pop()
    page.context.set_offline(False)
    saved(page)
    assert sorted(f"{one.item}:0" for one in desk.said(project, 2)) == sorted(judged)


def test_a_reload_with_unsent_votes_warns_and_loses_nothing(desk: Desk) -> None:
    project = desk.site.project(items=6)
    page = desk.sit(desk.site.person(), project)
    page.wait_for_timeout(300)
    page.route("**/api/judgments", lambda route: route.abort())
    judged = []
    for key in ("1", "2"):
        judged.append(task(page))
        press(page, key)
    page.wait_for_selector("#saving[data-state=offline]")
    warned = []

    def accept(dialog: Any) -> None:
        warned.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    page.reload()
    page.wait_for_selector("article:not([hidden])")
    assert warned == ["beforeunload"]
    assert task(page) not in judged
    assert desk.said(project, 0) == []
    page.unroute("**/api/judgments")
    saved(page)
    assert sorted(f"{one.item}:0" for one in desk.said(project, 2)) == sorted(judged)


def test_a_save_whose_answer_is_lost_counts_once(desk: Desk) -> None:
    project = desk.site.project(items=3)
    page = desk.sit(desk.site.person(), project)
    times: list[int] = []

    def lose(route: Any) -> None:
        times.append(len(times))
        if len(times) == 1:
            route.fetch()  # it reaches the server, and its answer is lost
            route.abort()
        else:
            route.continue_()

    page.route("**/api/judgments", lose)
    press(page, "1")
    saved(page)
    assert len(times) == 2
    assert len(desk.site.store.audit(project.id)) == 1


def test_a_killed_server_in_the_middle(desk: Desk) -> None:
    project = desk.site.project(items=10)
    page = desk.sit(desk.site.person(), project)
    press(page, "1")
    saved(page)
    page.wait_for_timeout(300)
    desk.server.kill()
    for key in ("2", "0"):
        press(page, key)
    page.wait_for_selector("#saving[data-state=offline]")
    desk.server.start()
    saved(page)
    press(page, "b")
    saved(page)
    desk.said(project, 4)


def test_two_people_at_once_share_the_work(desk: Desk) -> None:
    project = desk.site.project(items=12)
    people = [desk.site.person(), desk.site.person()]
    pages = [desk.sit(person, project) for person in people]
    for _ in range(6):
        for page in pages:
            if page.locator("article:not([hidden])").count():
                press(page, "1")
    for page in pages:
        while page.locator("article:not([hidden])").count():
            press(page, "1")
    found = desk.said(project, 12)
    assert len({one.item for one in found}) == 12
    assert {one.person for one in found} == {person.id for person in people}
    assert not any(one.extra for one in found)


def test_a_refused_save_is_shown_and_kept(desk: Desk) -> None:
    project = desk.site.project(items=4)
    page = desk.sit(desk.site.person(), project)
    refusal = {"error": {"what": "the item is gone", "where": "", "found": "", "fix": ""}}
    page.route("**/api/judgments", lambda route: route.fulfill(status=422, body=json.dumps(refusal)))
    press(page, "1")
    page.wait_for_selector("text=the item is gone")
    page.reload()
    page.wait_for_selector("text=the item is gone")
    page.unroute("**/api/judgments")
    page.click("#refused >> text=Try again")
    desk.said(project, 1)
    assert page.locator("#refused").is_hidden()


def test_signed_out_in_the_middle_keeps_the_vote(desk: Desk) -> None:
    person, project = desk.site.person(), desk.site.project(items=4)
    page = desk.sit(person, project)
    desk.site.store.end_sessions(person.id)
    press(page, "1")
    page.wait_for_selector("#signed-out:visible")
    token = desk.site.store.start_session(person.id)
    page.context.add_cookies([{"name": "trimtab", "value": token, "url": desk.server.base}])
    page.goto(f"{desk.server.base}/projects/{project.id}")
    saved(page)
    desk.said(project, 1)


def test_keys_that_are_not_meant(desk: Desk) -> None:
    """In text fields, while a character is composed, with modifiers, and held down, keys judge nothing."""
    project = desk.site.project(items=5)
    page = desk.sit(desk.site.person(), project)
    before = task(page)
    page.click("text=Reason or comment")
    page.click("#comment")
    page.keyboard.type("1 2 0 b s u")
    assert page.input_value("#comment") == "1 2 0 b s u"
    page.keyboard.press("Escape")
    for init in (
        {"key": "1", "code": "Digit1", "isComposing": True},
        {"key": "Process", "code": "Digit1", "keyCode": 229},
        {"key": "1", "code": "Digit1", "ctrlKey": True},
        {"key": "1", "code": "Digit1", "metaKey": True},
        {"key": "1", "code": "Digit1", "altKey": True},
        {"key": "1", "code": "Digit1", "repeat": True},
    ):
        page.evaluate(
            "init => document.body.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true, ...init}))",
            init,
        )
    page.wait_for_timeout(200)
    assert task(page) == before
    page.keyboard.press("?")
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.wait_for_timeout(100)
    assert task(page) == before
    page.keyboard.press("?")  # without single keys, only the button opens it
    assert page.locator("#help-dialog").is_hidden()
    page.click("#controls [data-act=help]")
    page.check("#single-keys")
    page.keyboard.press("Escape")
    press(page, "1")
    (one,) = desk.said(project, 1)
    assert isinstance(one.outcome, Compared)
    assert one.outcome.comment == "1 2 0 b s u"


def test_a_foreign_keyboard(desk: Desk) -> None:
    """French digits need Shift, Russian letters stand elsewhere: the place of the key counts."""
    project = desk.site.project(items=3)
    page = desk.sit(desk.site.person(), project)
    send = "init => document.body.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true, ...init}))"
    page.evaluate(send, {"key": "&", "code": "Digit1"})
    page.evaluate(send, {"key": "и", "code": "KeyB"})
    found = desk.said(project, 2)
    assert [as_shown(one.outcome, one.shown)["preferred"] for one in found] == ["first", "both_bad"]


def test_skip_and_flag(desk: Desk) -> None:
    project = desk.site.project(items=4)
    page = desk.sit(desk.site.person(), project)
    page.keyboard.press("s")
    page.keyboard.press("Escape")
    desk.said(project, 0)
    page.keyboard.press("s")
    press(page, "2")
    page.keyboard.press("f")
    page.fill("#flag-dialog input", "1 wrong name")
    press(page, "Enter")
    page.keyboard.press("s")
    page.click("#skip-dialog >> text=Cancel")
    press(page, "1")
    skipped, flagged, judged = (one.outcome for one in desk.said(project, 3))
    assert skipped == Skipped(reason="I lack the knowledge")
    assert flagged == Flagged(reason="1 wrong name")
    assert isinstance(judged, Compared)


def test_rank(desk: Desk) -> None:
    project = desk.site.project("rank", items=3, answers=4)
    page = desk.sit(desk.site.person(), project)
    for key in ("3", "1", "u", "4", "t", "1"):
        page.keyboard.press(key)
    press(page, "Enter")  # the one that is left is the last
    page.click("article:not([hidden]) [data-act=place-1]")
    for key in ("Backspace", "4", "3", "2", "1"):
        page.keyboard.press(key)
    press(page, "Enter")
    first, second = desk.said(project, 2)
    assert isinstance(first.outcome, Ranked)
    assert [first.outcome.places[index] for index in first.shown] == [2, 3, 1, 2]
    assert isinstance(second.outcome, Ranked)
    assert [second.outcome.places[index] for index in second.shown] == [4, 3, 2, 1]


def test_rate(desk: Desk) -> None:
    project = desk.site.project("rate", items=3)
    page = desk.sit(desk.site.person(), project)
    press(page, "7")
    page.click("text=Comment")
    page.fill("#comment", "too long")
    page.click("[data-act=grade-2]")
    assert [one.outcome for one in desk.said(project, 2)] == [
        Graded(grade=7),
        Graded(grade=2, comment="too long"),
    ]


def test_demonstrate_keeps_its_draft(desk: Desk) -> None:
    project = desk.site.project("demonstrate", items=3)
    page = desk.sit(desk.site.person(), project)
    page.wait_for_selector("#response:focus")
    page.keyboard.type("Half an")
    page.reload()
    page.wait_for_selector("#response:focus")
    page.keyboard.press("End")
    page.keyboard.type(" answer")
    page.keyboard.press("Enter")
    page.keyboard.type("1 and 2")
    press(page, "Control+Enter")
    assert page.input_value("#response") == ""
    page.keyboard.press("Control+Enter")  # nothing is written yet
    (one,) = desk.said(project, 1)
    assert one.outcome == Written(response="Half an answer\n1 and 2")
    page.keyboard.press("Escape")
    press(page, "u")
    assert page.input_value("#response") == "Half an answer\n1 and 2"


def test_edit(desk: Desk) -> None:
    project = desk.site.project("edit", items=3)
    page = desk.sit(desk.site.person(), project)
    page.keyboard.press("2")
    page.wait_for_selector("#response:focus")
    original = page.input_value("#response")
    page.keyboard.press("Control+End")
    page.keyboard.type(", mended")
    press(page, "Control+Enter")
    (one,) = desk.said(project, 1)
    preferred = "ab"[one.shown[1]]
    assert one.outcome == Edited(preferred=preferred, response=f"{original}, mended")  # type: ignore[arg-type]
    item = desk.site.store.item(one.item).content
    assert item.answers[one.shown[1]].text == original


def test_changing_a_judgment(desk: Desk) -> None:
    person, project = desk.site.person(), desk.site.project(items=3)
    page = desk.sit(person, project)
    press(page, "1")
    saved(page)
    (before,) = desk.said(project, 1)
    page.goto(f"{desk.server.base}/mine/{project.id}")
    page.click(".said >> text=Change")
    page.wait_for_selector("article:not([hidden])")
    page.keyboard.press("2")
    page.wait_for_url(f"**/mine/{project.id}")
    (after,) = desk.said(project, 1)
    assert after.supersedes == before.id
    assert as_shown(after.outcome, after.shown)["preferred"] == "second"


HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "[x](javascript:window.hit=1)",
    "</div></article></main><h1>out</h1>",
    "`</code><svg onload=window.hit=1>`",
    "&lt;script&gt;window.hit=1&lt;/script&gt; &#8238;evil",
    "\u202eevil\u202c \u0000 \x1b[2J",
    "W" * 5000,
]


@pytest.mark.parametrize("kind", ["compare", "edit"])
def test_hostile_texts_stay_text(desk: Desk, kind: Kind) -> None:
    from trimtab.feedback.records import Candidate, Item

    project = desk.site.project(kind, items=0)
    answers = [(Candidate(text=text), Candidate(text="fine")) for text in HOSTILE]
    items = [
        Item(prompt=text, answers=pair, context=(text,)) for text, pair in zip(HOSTILE, answers, strict=True)
    ]
    desk.site.store.add_items(project.id, items)
    page = desk.sit(desk.site.person(), project, viewport={"width": 390, "height": 844})
    for _ in HOSTILE:
        for view in ("r", "d", "r"):
            page.keyboard.press(view)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("main h1").count() == 1
        page.keyboard.press("s")
        press(page, "1")
    assert page.evaluate("window.hit") is None


def test_on_a_phone_by_touch(desk: Desk) -> None:
    project = desk.site.project(items=4)
    page = desk.sit(desk.site.person(), project, viewport={"width": 390, "height": 844}, has_touch=True)
    for act in ("first", "tie"):
        before = task(page)
        page.tap(f"[data-act={act}]")
        until(lambda before=before: on_screen(page) != before)
    page.tap("[data-act=undo]")
    (one,) = desk.said(project, 1)
    assert as_shown(one.outcome, one.shown)["preferred"] == "first"


def test_for_a_screen_reader(desk: Desk) -> None:
    """Every field and button has a name, changes are announced, and the next task gets the focus."""
    project = desk.site.project(items=3)
    page = desk.sit(desk.site.person(), project)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, a, select")].filter((element) =>
          element.type !== "hidden" && !element.closest("template") &&
          !(element.textContent.trim() || element.labels?.length || element.ariaLabel)).length"""
    )
    assert nameless == 0
    page.keyboard.press("1")
    until(lambda: page.evaluate("document.activeElement.matches('article:not([hidden])')"))
    page.context.set_offline(True)
    page.keyboard.press("1")
    until(lambda: page.evaluate("document.getElementById('said').textContent.includes('Offline')"))


def test_an_admin_on_a_phone_sees_agreement_and_can_act(desk: Desk) -> None:
    project = desk.site.project(items=3, overlap=3)
    for person in (desk.site.person(), desk.site.person()):
        page = desk.sit(person, project)
        for key in "12":
            press(page, key)
    desk.said(project, 4)
    page = desk.sit(desk.site.person("admin"), project, viewport={"width": 390, "height": 844})
    page.goto(f"{desk.server.base}/admin/projects/{project.id}")
    page.get_by_text("Krippendorff's alpha, nominal").wait_for(state="visible")
    page.goto(f"{desk.server.base}/admin/people")
    for button in page.get_by_role("button", name="Deactivate").all():
        box = button.bounding_box()
        assert box is not None and box["x"] + box["width"] <= 390 - 16, "cut off by the frame of the table"
