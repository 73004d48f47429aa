"""What every answer says to browsers, what is too much, and how often a password can be tried."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from trimtab.web.security import Attempts, TooManyAttempts, host_name
from trimtab.web.sessions import Visitor

if TYPE_CHECKING:
    from conftest import Make, Site

PAGES = ("/sign-in", "/enter/x", "/nowhere", "/api/judgments", "/static/judge.js", "/")


@pytest.mark.parametrize("path", PAGES)
def test_headers_of_every_answer(site: Site, path: str) -> None:
    headers = site.browser().get(path).headers
    policy = {part.split()[0]: part.split()[1:] for part in headers["content-security-policy"].split(";")}
    assert policy["default-src"] == policy["script-src"] == policy["style-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == ["'none'"]
    assert policy["form-action"] == ["'self'"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
    assert not [name for name in headers if name.startswith("access-control")]


def test_headers_of_refusals_and_of_our_own_mistakes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = site.browser(site.person())
    assert "content-security-policy" in browser.get("/", headers={"host": "evil.example"}).headers
    monkeypatch.setattr(site.store, "projects", lambda: 1 / 0)
    broken = type(browser)(site.app, browser.token)
    broken._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
    answer = broken.get("/")
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    "path", ["/sign-in", "/enter/x", "/", "/projects/1", "/mine/1", "/account", "/admin/projects/1"]
)
def test_no_script_or_style_stands_in_a_page(site: Site, path: str) -> None:
    site.project()
    text = site.browser(site.person("admin")).get(path, follow_redirects=True).text
    assert "<html" in text
    assert re.findall(r"<script(?![^>]* src=\"/static/)", text) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", text) == []


@pytest.mark.parametrize(
    ("path", "most"), [("/api/judgments", 1000), ("/sign-in", 1000), ("/admin/projects/1/items", 5000)]
)
def test_too_large_a_body_is_refused_unread(make_site: Make, path: str, most: int) -> None:
    site = make_site(largest_body=1000, largest_import=5000)
    browser = site.browser(site.person("admin"))
    assert browser.post(path, content=b"x" * most).status_code != 413
    assert browser.post(path, content=b"x" * (most + 1)).status_code == 413
    for length in ("-1", "1e3", "x", "9" * 20):
        assert browser.post(path, content=b"", headers={"content-length": length}).status_code == 413


def test_a_body_of_unknown_length_is_refused(site: Site) -> None:
    answer = site.browser(site.person()).post("/api/judgments", content=iter([b"{}"]))
    assert answer.status_code == 411


def test_a_number_of_more_digits_than_python_reads(site: Site) -> None:
    browser = site.browser(site.person("admin"))
    assert browser.get(f"/projects/{'9' * 5000}").status_code == 414
    assert browser.get(f"/projects/1?change={'9' * 5000}").status_code == 422
    assert browser.post_form("/admin/projects", name="x", kind="rate", overlap="9" * 5000).status_code == 422


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("127.0.0.1:8765", "127.0.0.1"),
        ("LOCALHOST", "localhost"),
        ("[::1]:8765", "[::1]"),
        ("[::1]", "[::1]"),
        ("", ""),
    ],
)
def test_host_name(header: str, name: str) -> None:
    assert host_name(header) == name


def test_attempts_are_counted_and_forgotten() -> None:
    now = [0.0]
    attempts = Attempts(60, clock=lambda: now[0])
    for second in (0, 1, 2):
        now[0] = second
        attempts.take("a", 3)
    attempts.take("b", 3)
    with pytest.raises(TooManyAttempts) as refused:
        attempts.take("a", 3)
    assert refused.value.seconds == 58
    now[0] = 60.5
    attempts.take("a", 3)  # the first one was a minute ago
    with pytest.raises(TooManyAttempts):
        attempts.take("a", 3)
    attempts.forget("a")
    attempts.take("a", 3)
    now[0] = 1000
    attempts.take("c", 3)
    assert list(attempts._times) == ["c"]


def test_sign_in_by_password_is_rate_limited(make_site: Make) -> None:
    site = make_site(attempts=3, attempts_by_address=8)
    person = site.person()
    site.store.set_password(person.id, "right horse battery")
    browser = site.browser()

    def tried(name: str, password: str) -> int:
        return int(browser.post("/sign-in", data={"name": name, "password": password}).status_code)

    assert [tried(person.name, "wrong") for _ in range(3)] == [403, 403, 403]
    answer = browser.post("/sign-in", data={"name": person.name.upper(), "password": "right horse battery"})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert [tried(f"other {number}", "wrong") for number in range(5)] == [403, 403, 403, 403, 429]
    assert browser.post("/enter/guess").status_code == 429


def test_a_right_password_starts_the_count_anew(make_site: Make) -> None:
    site = make_site(attempts=2)
    person = site.person()
    site.store.set_password(person.id, "right horse battery")
    for _ in range(2):
        browser = site.browser()
        assert browser.post("/sign-in", data={"name": person.name, "password": "wrong"}).status_code == 403
        right = {"name": person.name, "password": "right horse battery", "next": "/mine/1"}
        answer = browser.post("/sign-in", data=right)
        assert (answer.status_code, answer.headers["location"]) == (303, "/mine/1")
        assert browser.get("/account").status_code == 200


@pytest.mark.parametrize(
    "page", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "", "/a\nb"]
)
def test_signing_in_leads_to_our_own_pages_alone(site: Site, page: str) -> None:
    browser = site.browser(site.person())
    assert browser.get("/sign-in", params={"next": page}).headers["location"] == "/"


def test_the_cookie(make_site: Make) -> None:
    for https, name in ((False, "trimtab"), (True, "__Host-trimtab")):
        site = make_site(https=https)
        token = site.store.create_sign_in(site.person().id)
        origin = "https://127.0.0.1:8765" if https else "http://127.0.0.1:8765"
        answer = site.browser().post(f"/enter/{token}", headers={"origin": origin})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{name}=")
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "samesite=lax", "path=/"} <= parts
        assert ("secure" in parts) == https
        assert not [part for part in parts if part.startswith("domain")]


def test_a_link_lets_in_once_and_only_by_its_button(site: Site) -> None:
    token = site.store.create_sign_in(site.person().id)
    browser = site.browser()
    for _ in range(3):  # programs that preview links
        assert browser.get(f"/enter/{token}").status_code == 200
    assert browser.post(f"/enter/{token}").status_code == 303
    assert browser.get("/account").status_code == 200
    other = site.browser()
    assert other.post(f"/enter/{token}").status_code == 403
    assert other.get("/account").status_code == 303


def test_signing_in_ends_the_session_before(site: Site) -> None:
    first, second = site.person(), site.person()
    browser = site.browser(first)
    before = browser.token
    browser.post(f"/enter/{site.store.create_sign_in(second.id)}")
    assert site.store.find_session(before) is None
    assert second.name in browser.get("/account").text


def test_signing_out(site: Site) -> None:
    browser = site.browser(site.person())
    answer = browser.post_form("/sign-out")
    assert 'trimtab=""' in answer.headers["set-cookie"]
    assert site.store.find_session(browser.token) is None


def test_a_new_password_needs_the_old_one_and_signs_out_elsewhere(site: Site) -> None:
    person = site.person()
    browser, elsewhere = site.browser(person), site.browser(person)
    assert browser.post_form("/account/password", password="short").status_code == 422
    assert browser.post_form("/account/password", password="four words here now").status_code == 303
    assert elsewhere.get("/account").status_code == 303
    again = site.browser(person)
    assert again.post_form("/account/password", password="another long one").status_code == 403
    done = again.post_form("/account/password", current="four words here now", password="another long one")
    assert done.status_code == 303
    assert site.store.verify_password(person.name, "another long one")
    assert again.get("/account").status_code == 200


def test_the_second_secret_differs_and_does_not_tell_the_first(site: Site) -> None:
    person = site.person()
    one, other = Visitor(person, "a" * 43), Visitor(person, "b" * 43)
    assert one.csrf != other.csrf
    assert one.token not in one.csrf
