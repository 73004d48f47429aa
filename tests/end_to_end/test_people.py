"""People before real browsers, from an empty folder to models that were trained on what they said."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
PATIENCE = 30.0
"""Seconds; the machine may be busy."""
SETTINGS = ("model=film-reviews-5m", "max_prompt=48", "max_response=64", "device=cpu", "batch=4")
SMALL = [word for setting in SETTINGS for word in ("--set", setting)]


class Place:
    """A folder in which somebody types commands."""

    def __init__(self, folder: Path, chromium: Browser) -> None:
        self.folder = folder
        self._chromium = chromium
        self._server: subprocess.Popen[str] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def trimtab(self, *arguments: object) -> str:
        command = [sys.executable, "-m", "trimtab", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def serve(self) -> str:
        """Start the server; gives what it says before it waits."""
        command = [
            sys.executable,
            "-m",
            "trimtab",
            "feedback",
            "serve",
            "--no-open",
            "--port",
            str(self.port),
        ]
        self._server = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._server.stdout
        said = ""
        for line in self._server.stdout:
            said += line
            if "Ctrl-C stops" in line:
                return said
        raise AssertionError(f"the server did not start: {said}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self._server:
            self._server.send_signal(how)
            self._server.communicate(timeout=PATIENCE)
            self._server = None

    def newcomer(self, said: str) -> Page:
        """Somebody who opens the sign-in link that a command printed."""
        found = re.search(r"http://\S+/enter/\S+", said)
        assert found, said
        page = self._chromium.new_context().new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(found[0])
        page.click("text=Come in")
        return page

    def invited(self, name: str) -> Page:
        url = f"http://127.0.0.1:{self.port}"
        return self.newcomer(self.trimtab("feedback", "users", "add", name, "--url", url))


@pytest.fixture
def place(tmp_path: Path, chromium: Browser) -> Iterator[Place]:
    made = Place(tmp_path, chromium)
    yield made
    made.stop()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def task(page: Page) -> str | None:
    found = page.evaluate("document.querySelector('article:not([hidden])')?.dataset.task")
    return None if found is None else str(found)


def start(page: Page, project: str) -> None:
    page.click(f"a.button:has-text('with {project}')")
    page.wait_for_selector("article:not([hidden])")


def press(page: Page, *keys: str) -> None:
    """Keys of one judgment; the next task, or the end, after the last."""
    before = task(page)
    for key in keys:
        page.keyboard.press(key)
    until(lambda: task(page) != before)


def saved(page: Page) -> None:
    page.wait_for_selector("#saving[data-state=saved]")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_twenty_pairs_by_keyboard_train_both_methods(place: Place) -> None:
    begun = time.monotonic()
    ann = place.newcomer(place.serve())
    start(ann, "demo")
    seconds = time.monotonic() - begun
    print(f"from the command to the first pair: {seconds:.1f} s")
    assert seconds < 10
    bob = place.invited("bob")
    start(bob, "demo")

    for key in "1212121":
        press(ann, key)
        press(bob, "2" if key == "1" else "1")
    press(ann, "0")
    press(ann, "u")  # after all, one is better
    press(ann, "1")
    saved(ann)
    ann.context.set_offline(True)
    press(ann, "2")
    ann.wait_for_selector("#saving[data-state=offline]")
    ann.context.set_offline(False)
    saved(ann)
    saved(bob)
    place.stop(signal.SIGKILL)
    press(ann, "1")
    press(bob, "2")
    place.serve()
    for page in (ann, bob):
        saved(page)
        for key in "12":
            press(page, key)
        saved(page)
    judged = 12 + 10
    place.trimtab("feedback", "export", "judged", "--held-out", "0.1")
    manifest = json.loads((place.folder / "judged" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["about"]["judgments"] == judged and manifest["about"]["people"] == 2
    rows = [row for file in (place.folder / "judged").glob("*.jsonl") for row in lines(file)]
    assert len(rows) == judged
    for stage in ("reward", "dpo"):
        data = ["--set", f"data={place.folder / 'judged' / 'train.jsonl'}"]
        place.trimtab(stage, *SMALL, *data, "--out", stage)
        assert (place.folder / stage / "DONE").exists()


def test_two_people_write_rank_and_edit(place: Place) -> None:
    def items(name: str, rows: list[dict[str, Any]]) -> Path:
        path = place.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    prompts = [
        f"The {word} of this film" for word in ["plot", "end", "cast", "music", "sound", "light", "pace"]
    ]
    prompts += ["Its hero", "The first hour", "What I liked"]
    answers = [" is a joy.", " is fine.", " is dull.", " is a mess."]
    given = {
        "write": ("demonstrate", [{"prompt": prompt} for prompt in prompts]),
        "order": ("rank", [{"prompt": prompt, "answers": answers} for prompt in prompts[:5]]),
        "mend": ("edit", [{"prompt": prompt, "a": answers[0], "b": answers[3]} for prompt in prompts[5:]]),
    }
    for name, (kind, rows) in given.items():
        overlap = 1 if kind == "demonstrate" else 2
        options = ["--project", name, "--kind", kind, "--overlap", overlap]
        place.trimtab("feedback", "import", items(name, rows), *options)
    place.serve()
    people = [place.invited("ann"), place.invited("bob")]
    home = people[0].url
    for project in given:
        for page in people:
            page.goto(home)
            start(page, project)
        for page in people:
            for number in range(5):
                if project == "order":
                    press(page, "1", "2", "3", "Enter")
                    continue
                if project == "mend":
                    page.keyboard.press("1")
                page.wait_for_selector("#response:focus")
                page.keyboard.press("Control+End")
                page.keyboard.type(f" is grand, {number} times over.")
                press(page, "Control+Enter")
            saved(page)
    for project, shape, stage, records in (
        ("write", "prompt_completion", "sft", 10),
        ("order", "trimtab", "reward", 10 * 6),
        ("mend", "prompt_completion", "sft", 10),
        ("mend", "trimtab", "reward", 10 * 3),
    ):
        out = f"{project}-{stage}"
        place.trimtab(
            "feedback", "export", f"{out}-data", "--project", project, "--shape", shape, "--held-out", "0"
        )
        file = place.folder / f"{out}-data" / "train.jsonl"
        assert len(lines(file)) == records
        place.trimtab(stage, *SMALL, "--set", f"data={file}", "--out", out)
        assert (place.folder / out / "DONE").exists()
