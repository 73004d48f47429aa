"""The errors that trimtab shows to people.

Every message says what is wrong, where, what was found there and how to fix it. The command
line prints it without a traceback and exits with 1; a library user catches `TrimtabError`.
Mistakes of our own are bare `assert`s and ordinary Python errors, never these.
"""

from __future__ import annotations


class TrimtabError(Exception):
    """An error for people.

    Args:
        what: one sentence without a full stop: what is wrong.
        where: the file and line, setting, or model that it is about.
        found: the offending value as it was found.
        fix: what would put it right.
    """

    def __init__(self, what: str, *, where: str = "", found: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.found = found
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.found:
            lines.append(f"  found: {self.found}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class ConfigError(TrimtabError):
    """A setting that is unknown, of the wrong kind, or at odds with another one."""


class DataError(TrimtabError):
    """A file or row that cannot be read, or rows that must not be used together."""


class ModelError(TrimtabError):
    """A model that cannot be loaded, or that asks for something trimtab does not compute."""


class RunError(TrimtabError):
    """A run folder that cannot be created, resumed or used as a parent."""


class ResourceError(TrimtabError):
    """Too little memory or disk for what was asked."""


class FeedbackError(TrimtabError):
    """Something that the feedback store refuses, or cannot do."""


class NotFoundError(FeedbackError):
    """A person, project, item or judgment that is not there, or not there for this person."""


class ConflictError(FeedbackError):
    """What was asked for is at odds with what was stored meanwhile; nothing was changed."""


class StoreError(FeedbackError):
    """The database cannot be opened, or does not answer. Asking again with the same key is safe."""


class Interrupted(TrimtabError):
    """The person pressed Ctrl-C; what had been done is saved."""

    EXIT_CODE = 130
