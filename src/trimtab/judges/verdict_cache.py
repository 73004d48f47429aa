"""What an LLM judge answered, one file a question, so that nothing is paid for twice.

A file holds the whole request and the raw answer, for people to read; the verdict is read from
the answer each time. The key for the endpoint is in neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.judges.replies import Reply
from trimtab.runs.files import write_json


class VerdictCache:
    """A folder of answers. A damaged file is noted and counts as missing; the next answer replaces it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, request: Mapping[str, Any]) -> Reply | None:
        """The answer to exactly this request, or None."""
        path = self._path(request)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry["check"] == _digest([request, entry["reply"]]):
                return Reply(**entry["reply"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # no JSON, or of another shape: damaged, as one whose check is wrong
        self.notes.append(f"{path}: this kept answer is damaged; the question is asked again")
        return None

    def put(self, request: Mapping[str, Any], reply: Reply) -> None:
        """Keep an answer; the file is there whole or not at all."""
        tree = asdict(reply)
        write_json(
            self._path(request), {"request": request, "reply": tree, "check": _digest([request, tree])}
        )

    def _path(self, request: Mapping[str, Any]) -> Path:
        return self.folder / f"{_digest(request)}.json"


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
