"""What admins do: projects, items, exports, people."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trimtab.feedback.records import Compared, Draft, Kind
from trimtab.feedback.store.facts import Project, Settings

if TYPE_CHECKING:
    from conftest import Browser, Site

ROWS = [{"prompt": f"question {number}", "answers": ["yes", "no"]} for number in range(3)]


def jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(browser: Browser, project: Project, content: bytes, name: str = "items.jsonl") -> tuple[int, str]:
    answer = browser.post(
        f"/admin/projects/{project.id}/items",
        data={"csrf": browser.csrf},
        files={"file": (name, BytesIO(content))},
    )
    return answer.status_code, answer.headers.get("location") or answer.text


def judge(site: Site, project: Project) -> None:
    """Every item, by two people; who did is of no matter."""
    for person in (site.person(), site.person()):
        for task in site.store.claim(project.id, person.id, 50):
            site.store.save(
                Draft(
                    item=task.item,
                    person=person.id,
                    outcome=Compared(preferred="a"),
                    shown=task.shown,
                    blind=True,
                    guidelines=1,
                    seconds=3.0,
                    key=f"{task.item}",
                )
            )


@pytest.mark.parametrize("kind", ["demonstrate", "compare", "rank", "rate", "edit"])
def test_a_new_project(site: Site, kind: Kind) -> None:
    browser = site.browser(site.person("admin"))
    fields = {"name": "Täglich", "kind": kind, "overlap": "3", "gold_percent": "5", "repeat_percent": "2.5"}
    answer = browser.post_form("/admin/projects", **fields, guidelines="Be\r\nfair\r\n")
    (project,) = site.store.projects()
    assert answer.headers["location"] == f"/admin/projects/{project.id}"
    assert project.settings == Settings(kind=kind, overlap=3, gold_share=0.05, repeat_share=0.025)
    assert site.store.guidelines(project.id, 1).text == "Be\nfair"
    assert browser.get(answer.headers["location"]).status_code == 200
    assert browser.post_form("/admin/projects", **fields).status_code == 409
    assert browser.post_form("/admin/projects", **{**fields, "name": " "}).status_code == 422
    for name, value in (("overlap", "0"), ("overlap", "x"), ("gold_percent", "51"), ("gold_percent", "nan")):
        odd = {**fields, "name": f"{name} {value}", name: value}
        assert browser.post_form("/admin/projects", **odd).status_code == 422, odd
    assert len(site.store.projects()) == 1


def test_settings_and_guidelines_can_be_changed(site: Site) -> None:
    project = site.project()
    browser = site.browser(site.person("admin"))
    path = f"/admin/projects/{project.id}"
    browser.post_form(f"{path}/settings", overlap="4", gold_percent="10", repeat_percent="0")
    found = site.store.project(project.id)
    assert (found.settings.overlap, found.settings.gold_share) == (4, 0.1)
    assert (
        browser.post_form(f"{path}/settings", overlap="0", gold_percent="0", repeat_percent="0").status_code
        == 422
    )
    browser.post_form(f"{path}/guidelines", text="second version")
    assert site.store.guidelines(project.id, 2).text == "second version"
    page = browser.get(f"/projects/{project.id}/guidelines?version=1").text
    assert "<strong>fair</strong>" in page
    assert "not the newest" in page


def test_items_are_imported_once(site: Site) -> None:
    project = site.project(items=0)
    browser = site.browser(site.person("admin"))
    status, location = upload(browser, project, jsonl(ROWS))
    assert (status, location) == (303, f"/admin/projects/{project.id}?new=3&known=0#items")
    packed = gzip.compress(jsonl([*ROWS, {"prompt": "one more", "answers": ["yes", "no"]}]))
    assert upload(browser, project, packed, "x.jsonl.gz")[1].endswith("?new=1&known=3#items")
    assert len(site.store.items(project.id)) == 4
    assert (
        "1 item was added; 3 were there already"
        in browser.get(location.replace("new=3&known=0", "new=1&known=3")).text
    )


@pytest.mark.parametrize(
    "content", [b"", b"not json", b'{"prompt": 1}\n', b"\xff\xfe", jsonl([{"prompt": "p"}])]
)
def test_what_is_no_file_of_items(site: Site, content: bytes) -> None:
    project = site.project(items=0)
    browser = site.browser(site.person("admin"))
    status, text = upload(browser, project, content, "../../etc/passwd")
    assert status == 422
    assert "/tmp" not in text
    assert site.store.items(project.id) == []
    none = browser.post(f"/admin/projects/{project.id}/items", data={"csrf": browser.csrf, "file": "text"})
    assert none.status_code == 422


def test_an_export_is_a_zip_of_what_people_said(site: Site, tmp_path: Path) -> None:
    project = site.project(items=10, overlap=2)
    judge(site, project)
    browser = site.browser(site.person("admin"))
    answer = browser.get(f"/admin/projects/{project.id}/export?shape=trimtab")
    assert answer.headers["content-disposition"] == f'attachment; filename="project-{project.id}-trimtab.zip"'
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        names = set(archive.namelist())
        manifest = json.loads(archive.read("manifest.json"))
        rows = [
            json.loads(line) for name in names - {"manifest.json"} for line in archive.read(name).splitlines()
        ]
    assert manifest["shape"] == "trimtab"
    assert len(rows) == manifest["rows"] == 20
    assert {row["verdict"]["preferred"] if "verdict" in row else row["preferred"] for row in rows} == {"a"}


@pytest.mark.parametrize(
    "query", ["shape=nothing", "shape=ratings", "shape=trimtab&file_kind=exe", "", "shape=../x"]
)
def test_exports_that_do_not_exist(site: Site, query: str) -> None:
    project = site.project()
    browser = site.browser(site.person("admin"))
    assert browser.get(f"/admin/projects/{project.id}/export?{query}").status_code == 422


def test_every_shape_that_the_page_offers_can_be_downloaded(site: Site) -> None:
    project = site.project(items=10, overlap=2)
    judge(site, project)
    browser = site.browser(site.person("admin"))
    shapes = re.findall(r'name="shape" value="(\w+)"', browser.get(f"/admin/projects/{project.id}").text)
    assert {"trimtab", "preference", "fastchat"} <= set(shapes)
    for shape in shapes:
        kind = "json" if shape == "llm_comparator" else "jsonl"
        answer = browser.get(f"/admin/projects/{project.id}/export?shape={shape}&file_kind={kind}")
        assert answer.status_code == 200, (shape, answer.text)


def test_quality_names_everybody(site: Site) -> None:
    project = site.project(items=10, overlap=2)
    judge(site, project)
    browser = site.browser(site.person("admin"))
    text = browser.get(f"/admin/projects/{project.id}/quality").text
    names = [person.name for person in site.store.people() if person.role == "annotator"]
    assert all(name in text for name in names)
    assert "100 %" in text  # they agree on everything


def test_a_new_person_comes_in_by_the_link(site: Site) -> None:
    browser = site.browser(site.person("admin"))
    text = browser.post_form("/admin/people", name="Zoë", role="annotator").text
    (link,) = re.findall(r'value="(http://127\.0\.0\.1:8765/enter/[\w-]+)"', text)
    assert link not in browser.get("/admin/people").text
    new = site.browser()
    assert new.post(link.removeprefix("http://127.0.0.1:8765")).status_code == 303
    assert "Zoë" in new.get("/account").text
    assert browser.post_form("/admin/people", name="zoë").status_code == 409
    assert browser.post_form("/admin/people", name="x", role="owner").status_code == 422


def test_letting_go_and_back(site: Site) -> None:
    admin, person = site.person("admin"), site.person()
    browser, gone = site.browser(admin), site.browser(person)
    browser.post_form(f"/admin/people/{person.id}/deactivate")
    assert gone.get("/account").status_code == 303
    assert browser.post_form(f"/admin/people/{person.id}/link").status_code == 422
    browser.post_form(f"/admin/people/{person.id}/reactivate")
    assert site.store.person(person.id).active
    assert browser.post_form(f"/admin/people/{admin.id}/deactivate").status_code == 422
    assert browser.post_form("/admin/people/999/deactivate").status_code == 404
