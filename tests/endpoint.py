"""An OpenAI-compatible endpoint on loopback that says, delays or breaks what a test's script wants."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as the server saw it."""

    body: dict[str, Any]
    headers: dict[str, str]
    before: int
    """How often this very question had come before."""

    @property
    def text(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def code(self) -> str:
        found = re.search(r"VERDICT ([0-9a-f]{8}): TIE", self.text)
        assert found
        return found[1]

    def part(self, name: str) -> str:
        begin, end = f"[{name} {self.code} begins]\n", f"\n[{name} {self.code} ends]"
        return self.text.split(begin)[1].split(end)[0]

    def verdict(self, choice: str) -> str:
        return f"I have thought about it.\nVERDICT {self.code}: {choice}"

    def honest(self) -> Say:
        """The response with more `good` in it wins."""
        goods = [self.part(f"response {which}").count("good") for which in (1, 2)]
        return Say(self.verdict("TIE" if goods[0] == goods[1] else "1" if goods[0] > goods[1] else "2"))


@dataclass
class Say:
    """A chat completion."""

    text: str
    finish: str = "stop"
    usage: dict[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 7}
    )


@dataclass
class Raw:
    """Any status and any bytes."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Drop:
    """The connection closes without an answer."""


Script = Callable[[Asked], Say | Raw | Drop]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.script: Script = Asked.honest
        self.asked: list[Asked] = []
        self.at_once = self.busiest = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """A client that has gone away is a part of the script."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            before = sum(one.body == body for one in self.server.asked)
            asked = Asked(body, {name.lower(): value for name, value in self.headers.items()}, before)
            self.server.asked.append(asked)
            self.server.at_once += 1
            self.server.busiest = max(self.server.busiest, self.server.at_once)
        try:
            answer = self.server.script(asked)
        finally:
            with self.server.lock:
                self.server.at_once -= 1
        if isinstance(answer, Drop):
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(answer if isinstance(answer, Raw) else Raw(body=completion(answer)))

    def _send(self, answer: Raw) -> None:
        payload = answer.body.encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


def completion(say: Say) -> str:
    message = {"role": "assistant", "content": say.text}
    tree = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": say.usage}
    return json.dumps({**tree, "choices": [{"index": 0, "message": message, "finish_reason": say.finish}]})


@contextmanager
def scripted_endpoint() -> Iterator[Server]:
    """A server that runs until the block ends; it answers honestly until its `script` is changed."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
