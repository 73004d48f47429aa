"""Starting: who is let in first, on which addresses, and a clean end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from trimtab.errors import FeedbackError
from trimtab.feedback.store.store import Store, open_store
from trimtab.web import serve as serving
from trimtab.web.serve import first_link, is_loopback, known_names, serve


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Store:
    place = tmp_path / "feedback.sqlite"
    place.write_bytes(template.read_bytes())
    with open_store(place) as opened:
        yield opened  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


def test_the_first_admin_is_made_once(store: Store) -> None:
    link = first_link(store, "http://127.0.0.1:1")
    token = link.removeprefix("http://127.0.0.1:1/enter/")
    (person,) = store.people()
    assert (person.name, person.role) == ("admin", "admin")
    assert first_link(store, "http://127.0.0.1:1") == ""
    assert store.redeem_sign_in(token) == person


def test_a_lost_first_link_has_a_way_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_run", lambda store, settings, listening: None)
    place = str(Path(store.name).resolve())

    def said() -> str:
        lines: list[str] = []
        serve(place, port=0, say=lines.append)
        return "\n".join(lines)

    assert "Come in once" in said()
    again = said()
    assert "Come in once" not in again and "trimtab feedback users link admin" in again
    (person,) = store.people()
    store.set_password(person.id, "correct horse battery staple")
    assert "users link" not in said()


def test_other_addresses_need_an_admin_with_a_password(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[frozenset[str]] = []
    monkeypatch.setattr(serving, "_run", lambda store, settings, listening: ran.append(settings.hosts))

    def start() -> None:
        serve(store.name, host="0.0.0.0", port=0, names=["pairs.example"], say=lambda line: None)

    with pytest.raises(FeedbackError, match="no admin has a password"):
        start()
    annotator, admin = store.add_person("Ann"), store.add_person("Bob", "admin")
    store.set_password(annotator.id, "a long password")
    with pytest.raises(FeedbackError):
        start()
    store.set_password(admin.id, "a long password")
    start()
    assert {"pairs.example", "127.0.0.1", "0.0.0.0"} <= ran[0]
    other = store.add_person("Eve", "admin")
    store.deactivate(admin.id)
    with pytest.raises(FeedbackError):
        start()
    assert other.active


def test_names() -> None:
    assert known_names("127.0.0.1") == {"127.0.0.1", "localhost", "[::1]"}
    assert "[fd00::1]" in known_names("fd00::1")
    assert "pairs.example" in known_names("127.0.0.1", ["Pairs.example"])


def test_a_port_that_is_taken(store: Store) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(FeedbackError, match="cannot be listened on"),
    ):
        serve(store.name, port=taken.getsockname()[1])
    assert store.people() == [], "an admin was made, and the link was never shown"


def test_from_an_empty_folder_to_a_clean_stop(tmp_path: Path) -> None:
    code = "import sys; from trimtab.web.serve import serve; serve(sys.argv[1], port=0)"
    command = [sys.executable, "-u", "-c", code, str(tmp_path / "new.sqlite")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(4)]
    (base,) = re.findall(r"http://127\.0\.0\.1:\d+$", lines[0].strip())
    (link,) = re.findall(rf"{base}/enter/\S+", lines[1])
    request = urllib.request.Request(link, method="POST", headers={"Origin": base}, data=b"")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(request, timeout=20) as answer:
        assert answer.url == f"{base}/"
        assert "server" not in answer.headers
    with pytest.raises(urllib.error.HTTPError):
        opener.open(request, timeout=20)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.strip().endswith("Everything that was accepted is saved.")
