"""The judging API: what is sent before the vote, what is stored after it, what is refused."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from trimtab.feedback.records import Compared, Edited, Graded, Kind, Outcome, Ranked, Skipped, Written
from trimtab.web.shown import as_shown

if TYPE_CHECKING:
    from conftest import Browser, Site

KEYS = map("key {}".format, count())
KINDS: tuple[Kind, ...] = ("demonstrate", "compare", "rank", "rate", "edit")
GOLD: dict[Kind, Outcome] = {
    "demonstrate": Written(response="planted-gold"),
    "compare": Compared(preferred="a", comment="planted-gold"),
    "rank": Ranked(places=(1, 2, 3)),
    "rate": Graded(grade=7, comment="planted-gold"),
    "edit": Edited(preferred="a", response="planted-gold"),
}
SAID: dict[Kind, tuple[str, dict[str, Any]]] = {
    "demonstrate": ("written", {"response": "an answer"}),
    "compare": ("compared", {"preferred": "first", "strength": 2, "reason": "r", "comment": "c"}),
    "rank": ("ranked", {"places": [2, 1, 3]}),
    "rate": ("graded", {"grade": 4}),
    "edit": ("edited", {"preferred": "second", "response": "better"}),
}


def claim(browser: Browser, project: int, number: int = 1) -> list[dict[str, Any]]:
    answer = browser.post_json(f"/api/projects/{project}/claim", {"count": number})
    assert answer.status_code == 200, answer.text
    tasks: list[dict[str, Any]] = answer.json()["tasks"]
    return tasks


def vote(task: dict[str, Any], kind: str, outcome: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"item": task["item"], "round": task["round"], "kind": kind, "outcome": outcome, "seconds": 1.5}
    return {**body, "guidelines": task["guidelines_version"], "key": next(KEYS), "client": "test", **more}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaks_before_the_vote(site: Site, kind: Kind) -> None:
    project = site.project(kind, items=2, gold_share=0.5)
    site.store.add_items(project.id, [site.secret_item(kind, 99, gold=GOLD[kind])])
    person = site.person()
    browser = site.browser(person)
    texts = [browser.post_json(f"/api/projects/{project.id}/claim", {"count": 20}).text]
    numbers = [task["item"] for task in json.loads(texts[0])["tasks"]]
    gold = [item.id for item in site.store.items(project.id) if item.content.gold]
    assert set(gold) & set(numbers), "the gold item was not given: the test shows nothing"
    pages = (f"/projects/{project.id}", f"/mine/{project.id}", "/", f"/api/projects/{project.id}/guidelines")
    texts += [browser.get(path).text for path in pages]
    for word in (*site.secrets, str(project.seed), "source", "policy", "gold", "shown"):
        assert [text for text in texts if word in text] == [], word
    for task in json.loads(texts[0])["tasks"]:
        allowed = {
            "item",
            "round",
            "kind",
            "prompt",
            "answers",
            "context",
            "lease_until",
            "guidelines_version",
        }
        assert set(task) == allowed
        for answer in task["answers"]:
            assert set(answer) == {"html", "raw", "spans"} | ({"text"} if kind == "edit" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leaks_after_the_vote_or_by_undo(site: Site, kind: Kind) -> None:
    project = site.project(kind)
    browser = site.browser(site.person())
    (task,) = claim(browser, project.id)
    saved = browser.post_json("/api/judgments", vote(task, *SAID[kind]))
    assert set(saved.json()) == {"id", "extra"}
    one = browser.get(f"/api/projects/{project.id}/judgments/{saved.json()['id']}")
    undone = browser.post_json(f"/api/judgments/{saved.json()['id']}/undo", {"key": next(KEYS)})
    assert {**undone.json()["task"], "lease_until": 0} == {**task, "lease_until": 0}
    assert {**one.json()["task"], "lease_until": 0} == {**task, "lease_until": 0}
    for answer in (saved, one, undone):
        assert not [word for word in site.secrets if word in answer.text]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_is_stored_in_the_items_order(site: Site, kind: Kind) -> None:
    """Checked by text: the answer that stood first, as sent, is the one that the outcome means."""
    project = site.project(kind, items=12, answers=4 if kind == "rank" else None)
    browser = site.browser(site.person())
    orders = set()
    for task in claim(browser, project.id, 12):
        name, outcome = SAID[kind]
        outcome = {"places": [3, 1, 2, 2]} if kind == "rank" else outcome
        assert browser.post_json("/api/judgments", vote(task, name, outcome)).status_code == 200
        judgment = site.store.history(project.id, 1, 1)[0]
        texts = [answer.text for answer in site.store.item(task["item"]).content.answers]
        on_screen = [answer["raw"] for answer in task["answers"]]
        orders.add(judgment.shown)
        said = judgment.outcome
        if isinstance(said, Compared):
            assert texts["ab".index(said.preferred)] == on_screen[0]
            assert (said.strength, said.reason, said.comment) == (2, "r", "c")
        elif isinstance(said, Edited):
            assert texts["ab".index(said.preferred)] == on_screen[1]
        elif isinstance(said, Ranked):
            assert dict(zip(texts, said.places, strict=True)) == dict(
                zip(on_screen, [3, 1, 2, 2], strict=True)
            )
    assert len(orders) > 1 or kind in ("demonstrate", "rate")


def test_what_is_kept_beside_a_judgment(site: Site) -> None:
    project = site.project()
    person = site.person()
    browser = site.browser(person)
    (task,) = claim(browser, project.id)
    site.store.set_guidelines(project.id, "changed meanwhile")
    body = vote(task, "compared", {"preferred": "tie"})
    saved = browser.post_json("/api/judgments", body)
    (one,) = site.store.judgments(project.id)
    assert saved.json() == {"id": one.id, "extra": False}
    assert (one.person, one.item, one.round, one.guidelines) == (person.id, task["item"], 0, 1)
    assert (one.seconds, one.key, one.client, one.blind) == (1.5, body["key"], "test", True)
    assert one.policies == ("planted-hash-0", "planted-hash-1")
    assert browser.post_json("/api/judgments", body).json() == saved.json()
    assert len(site.store.audit(project.id)) == 1


def test_a_change_supersedes_what_was_seen(site: Site) -> None:
    project = site.project()
    browser = site.browser(site.person())
    (task,) = claim(browser, project.id)
    first = browser.post_json("/api/judgments", vote(task, "compared", {"preferred": "first"})).json()["id"]
    shown = browser.get(f"/api/projects/{project.id}/judgments/{first}").json()
    assert shown["outcome"]["preferred"] == "first"
    change = vote(shown["task"], "compared", {"preferred": "both_bad"}, supersedes=first)
    assert browser.post_json("/api/judgments", change).status_code == 200
    (one,) = site.store.judgments(project.id)
    assert (one.supersedes, as_shown(one.outcome, one.shown)["preferred"]) == (first, "both_bad")
    late = vote(shown["task"], "compared", {"preferred": "tie"}, supersedes=first)
    refused = browser.post_json("/api/judgments", late)
    assert refused.status_code == 409
    assert refused.json()["error"]["what"] == "the judgment was changed meanwhile"


def test_skipped_is_no_vote(site: Site) -> None:
    project = site.project()
    browser = site.browser(site.person())
    (task,) = claim(browser, project.id)
    browser.post_json("/api/judgments", vote(task, "skipped", {"reason": "I cannot tell"}))
    assert site.store.judgments(project.id) == []
    (one,) = site.store.judgments(project.id, leave_out=())
    assert one.outcome == Skipped(reason="I cannot tell")


def test_the_page_says_how_far_the_person_is(site: Site) -> None:
    project = site.project(items=4)
    browser = site.browser(site.person())
    (task,) = claim(browser, project.id)
    browser.post_json("/api/judgments", vote(task, "compared", {"preferred": "tie"}))
    assert 'data-judged="1" data-left="3"' in browser.get(f"/projects/{project.id}").text
    assert "1 judged by you, 3 left" in browser.get("/").text


def test_the_task_of_another_person(site: Site) -> None:
    project = site.project(items=1)
    owner, other = site.browser(site.person()), site.browser(site.person())
    (task,) = claim(owner, project.id)
    body = vote(task, "compared", {"preferred": "first"})
    assert other.post_json("/api/judgments", body).status_code == 404
    saved = owner.post_json("/api/judgments", body).json()["id"]
    assert other.post_json(f"/api/judgments/{saved}/undo", {"key": "x"}).status_code == 404
    assert other.get(f"/api/projects/{project.id}/judgments/{saved}").status_code == 404
    assert other.get(f"/projects/{project.id}?change={saved}").status_code == 404
    assert other.post_form(f"/mine/{project.id}/{saved}/undo", key="x").status_code == 404
    assert len(site.store.judgments(project.id)) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"item": 10**30}, 404),
        ({"item": -1}, 404),
        ({"item": 0}, 404),
        ({"item": "1; DROP TABLE items"}, 422),
        ({"item": None}, 422),
        ({"round": 1}, 404),
        ({"round": 2}, 422),
        ({"kind": "ranked"}, 422),
        ({"kind": "withdrawn", "outcome": {}}, 422),
        ({"outcome": {"preferred": "a"}}, 422),
        ({"outcome": {"preferred": "first", "comment": "\ud800"}}, 200),
        ({"outcome": {"preferred": "first", "strength": 2.5}}, 422),
        ({"outcome": []}, 422),
        ({"seconds": -1}, 422),
        ({"seconds": "x"}, 422),
        ({"guidelines": 99}, 422),
        ({"key": ""}, 422),
        ({"key": "a\nb"}, 422),
        ({"key": "x" * 101}, 422),
        ({"key": "\ud800"}, 422),
        ({"client": "\x00"}, 422),
        ({"shown": [0, 1]}, 422),
        ({"blind": False}, 422),
        ({"person": 2}, 422),
        ({"supersedes": 10**30}, 409),
    ],
    ids=str,
)
def test_odd_votes(site: Site, change: dict[str, Any], status: int) -> None:
    project = site.project(items=1)
    browser = site.browser(site.person())
    (task,) = claim(browser, project.id)
    body = json.dumps({**vote(task, "compared", {"preferred": "first"}), **change})
    headers = {"x-csrf-token": browser.csrf, "content-type": "application/json"}
    answer = browser.post("/api/judgments", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert set(answer.json()["error"]) == {"what", "where", "found", "fix"}
        assert answer.json()["error"]["what"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"NaN", b"\xff", b"[" * 100_000, b'{"item":' + b"9" * 5000 + b"}"]
)
def test_bodies_that_are_no_vote(site: Site, body: bytes) -> None:
    browser = site.browser(site.person())
    headers = {"x-csrf-token": browser.csrf, "content-type": "application/json"}
    for path in ("/api/judgments", "/api/projects/1/claim", "/api/judgments/1/undo"):
        assert browser.post(path, content=body, headers=headers).status_code in (400, 422)


@pytest.mark.parametrize("number", [0, -1, 21, 10**30, "five", None, True])
def test_odd_claims(site: Site, number: Any) -> None:
    project = site.project()
    browser = site.browser(site.person())
    answer = browser.post_json(f"/api/projects/{project.id}/claim", {"count": number})
    assert answer.status_code == (200 if number is True else 422)


def test_what_is_not_there(site: Site) -> None:
    browser = site.browser(site.person("admin"))
    for path in (
        "/projects/9",
        f"/projects/{10**30}",
        "/mine/9",
        "/admin/projects/9",
        "/api/projects/9/guidelines",
    ):
        assert browser.get(path).status_code == 404
    assert browser.get("/projects/one").status_code == 404
    assert browser.post_json("/api/projects/9/claim", {"count": 1}).status_code == 404
    project = site.project()
    assert browser.get(f"/projects/{project.id}/guidelines?version=2").status_code == 404
    assert browser.get(f"/projects/{project.id}/guidelines?version=0").status_code == 404


def test_halves_of_characters_come_back(site: Site) -> None:
    """What a browser sent comes back, though it is no UTF-8."""
    project = site.project("demonstrate")
    browser = site.browser(site.person())
    (task,) = claim(browser, project.id)
    body = json.dumps(vote(task, "written", {"response": "half \ud83d"}))
    headers = {"x-csrf-token": browser.csrf, "content-type": "application/json"}
    saved = browser.post("/api/judgments", content=body, headers=headers).json()["id"]
    found = browser.get(f"/api/projects/{project.id}/judgments/{saved}")
    assert json.loads(found.content)["outcome"]["response"] == "half \ud83d"
