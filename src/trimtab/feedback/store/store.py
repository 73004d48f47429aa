"""`Store`: the one class through which pages and commands reach the database.

Everything it takes and gives is a plain record; every time comes from one clock; every method is one unit
that happens wholly or not at all (an import of items is several). It is safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from trimtab.feedback.records import Draft, Item, Judgment
from trimtab.feedback.store import (
    accounts,
    backup,
    claiming,
    contents,
    passwords,
    projects,
    reading,
    saving,
)
from trimtab.feedback.store.address import parse_address
from trimtab.feedback.store.engine import Database
from trimtab.feedback.store.facts import (
    Added,
    Counts,
    Guidelines,
    Person,
    Progress,
    Project,
    Role,
    Settings,
    StoredItem,
    Task,
)
from trimtab.feedback.store.migrating import migrate
from trimtab.feedback.store.reading import NO_VOTES, LeftOut

Clock = Callable[[], datetime]

SIGN_IN_FOR = timedelta(days=3)
SESSION_FOR = timedelta(days=30)
ORDERS = 100_000
"""Items of which it is kept in memory in which orders they are shown: two numbers each."""


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


def open_store(place: str | Path, *, clock: Clock = utc_now) -> Store:
    """Open a store, make it where there is none, and bring an older one up to date.

    Args:
        place: a file for SQLite, or postgresql://user:password@host/database.
    Raises:
        StoreError: it cannot be opened, belongs to something else, or was made by a newer trimtab.
    """
    database = Database(parse_address(place))
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return Store(database, clock)


def restore(path: Path, place: str | Path) -> None:
    """Put a backup in the place of a store that is new, or holds no judgments yet; stop its server first.

    Raises:
        FeedbackError: the backup is missing, changed, broken or of another kind; the store holds judgments.
    """
    address = parse_address(place)
    backup.read_backup(path, address)
    open_store(place).close()


class Store:
    """One open store."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._now = clock
        # Neither ever changes; every save asks.
        self._order_of = lru_cache(maxsize=ORDERS)(self._ask_order_of)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; no method may run then."""
        self._database.close()

    @property
    def name(self) -> str:
        """Where it is, without any password."""
        return self._database.address.name

    @property
    def in_file(self) -> bool:
        """Whether it is a file, with one writer at a time, and not a database server."""
        return self._database.address.file is not None

    def backup(self, path: Path) -> str:
        """Write a backup of this moment, and its SHA-256 beside it, while others go on; gives the SHA-256.

        Raises:
            FeedbackError: there is such a file already, or it cannot be written.
        """
        return backup.write_backup(self._database.address, path)

    # People

    def add_person(self, name: str, role: Role = "annotator") -> Person:
        """A new account; without a password, it is entered by a sign-in link.

        Raises:
            ConflictError: there is one of this name, whatever its case.
        """
        with self._database.writing() as connection:
            return accounts.add_person(connection, name, role, self._now())

    def people(self) -> list[Person]:
        """Everyone by name, the deactivated too."""
        with self._database.reading() as connection:
            return accounts.all_people(connection)

    def person(self, person: int) -> Person:
        with self._database.reading() as connection:
            return accounts.one_person(connection, person)

    def person_named(self, name: str) -> Person | None:
        with self._database.reading() as connection:
            return accounts.person_named(connection, name)

    def set_password(self, person: int, password: str) -> None:
        """From now on only this password fits; the person is signed out everywhere."""
        hashed = passwords.hash_password(password)
        with self._database.writing() as connection:
            accounts.set_password(connection, person, hashed)

    def verify_password(self, name: str, password: str) -> Person | None:
        """The active person whose name and password these are. Takes as long where there is no such name."""
        with self._database.reading() as connection:
            found = accounts.password_hash(connection, name)
        return accounts.verified(password, found)

    def deactivate(self, person: int) -> None:
        """Sign the person out and refuse all further acts; what was judged stays.

        Raises:
            FeedbackError: it is the last active admin.
        """
        with self._database.writing() as connection:
            accounts.deactivate(connection, person, self._now())

    def reactivate(self, person: int) -> None:
        """Let a deactivated person in again."""
        with self._database.writing() as connection:
            accounts.reactivate(connection, person)

    def create_sign_in(self, person: int, lifetime: timedelta = SIGN_IN_FOR) -> str:
        """A secret that lets the person in once. It cannot be shown again."""
        token = passwords.new_token()
        with self._database.writing() as connection:
            accounts.create_sign_in(connection, person, token, self._now() + lifetime)
        return token

    def redeem_sign_in(self, token: str) -> Person | None:
        """The person whom an unused, unexpired secret lets in; it is used up."""
        with self._database.writing() as connection:
            return accounts.redeem_sign_in(connection, token, self._now())

    def start_session(self, person: int, lifetime: timedelta = SESSION_FOR) -> str:
        """A secret for the person's browser."""
        token = passwords.new_token()
        now = self._now()
        with self._database.writing() as connection:
            accounts.start_session(connection, person, token, now, now + lifetime)
        return token

    def find_session(self, token: str) -> Person | None:
        """The active person of an unexpired session."""
        with self._database.asking() as connection:
            return accounts.find_session(connection, token, self._now())

    def end_session(self, token: str) -> None:
        with self._database.writing() as connection:
            accounts.end_session(connection, token)

    def end_sessions(self, person: int) -> None:
        """Sign the person out everywhere."""
        with self._database.writing() as connection:
            accounts.end_sessions(connection, person)

    # Projects and items

    def create_project(
        self, name: str, settings: Settings, *, guidelines: str = "", seed: int | None = None
    ) -> Project:
        """A new project. `seed` decides every random order in it; left away, it is drawn.

        Raises:
            ConflictError: there is one of this name, whatever its case.
        """
        now = self._now()
        with self._database.writing() as connection:
            project = projects.create_project(connection, name, settings, seed, now)
            if guidelines:
                projects.set_guidelines(connection, project.id, guidelines, now)
            return projects.one_project(connection, project.id)

    def projects(self) -> list[Project]:
        """All of them, the oldest first."""
        with self._database.reading() as connection:
            return projects.all_projects(connection)

    def project(self, project: int) -> Project:
        with self._database.asking() as connection:
            return projects.one_project(connection, project)

    def project_named(self, name: str) -> Project | None:
        with self._database.reading() as connection:
            return projects.project_named(connection, name)

    def change_project(self, project: int, **changes: int | float) -> Project:
        """Change `overlap`, `gold_share` or `repeat_share`, now or in the middle of the work.

        Raises:
            FeedbackError: no such setting, or a value outside its range.
        """
        with self._database.writing() as connection:
            return projects.change_project(connection, project, changes)

    def set_guidelines(self, project: int, text: str) -> int:
        """Make this text the newest version, and give its number; the same text makes no new one."""
        with self._database.writing() as connection:
            return projects.set_guidelines(connection, project, text, self._now())

    def guidelines(self, project: int, version: int) -> Guidelines:
        with self._database.reading() as connection:
            return projects.one_version(connection, project, version)

    def add_items(self, project: int, items: Sequence[Item]) -> Added:
        """Add items; those that are there already (by digest) are found again and stay as they are.

        All are checked before the first is written. Written in units of `contents.CHUNK`: after an
        interruption, add the same items again.

        Raises:
            FeedbackError: an item does not fit the project's kind.
        """
        rows = contents.rows_of(self.project(project), items)
        ids: list[int] = []
        new = 0
        for start in range(0, len(rows), contents.CHUNK):
            with self._database.writing() as connection:
                found, added = contents.add_rows(connection, project, rows[start : start + contents.CHUNK])
            ids += found
            new += added
        return Added(ids=tuple(ids), new=new)

    def items(self, project: int) -> list[StoredItem]:
        """All items of a project, in the order in which they were added."""
        with self._database.reading() as connection:
            return contents.all_items(connection, project)

    def item(self, item: int) -> StoredItem:
        with self._database.asking() as connection:
            return contents.one_item(connection, item)

    # Work

    def shown(self, item: int, person: int, round: int) -> tuple[int, ...]:
        """The order in which the person sees the answers of an item; `claim` gives the same."""
        seed, answers = self._order_of(item)
        return claiming.shown_order(seed, item, person, round, answers)

    def claim(self, project: int, person: int, count: int) -> list[Task]:
        """Up to `count` tasks for the person, each held for `claiming.LEASE`; those held already come first.

        Raises:
            FeedbackError: the person is deactivated, or `count` is not from 1 to `claiming.MOST`.
        """
        with self._database.writing() as connection:
            return claiming.claim(connection, project, person, count, self._now())

    def save(self, draft: Draft) -> Judgment:
        """Keep a judgment for good; sent twice with one key, it is kept once and given back.

        What the person said about the same item in the same round is superseded. An expired lease and a
        full overlap are no reason to refuse: beyond the overlap, the judgment is `extra`.

        Raises:
            NotFoundError: the item was never given to this person.
            ConflictError: the key was used for something else, or `supersedes` is not the newest.
            FeedbackError: the outcome does not fit the item, or the person is deactivated.
        """
        with self._database.writing() as connection:
            return saving.save(connection, draft, self._now())

    def undo(self, judgment: int, person: int, *, key: str, client: str = "") -> Judgment:
        """Take a judgment back; its item is in the person's hands again. Gives the `Withdrawn` judgment.

        Raises:
            NotFoundError: the person has made no such judgment.
            ConflictError: it was superseded or taken back meanwhile.
        """
        with self._database.writing() as connection:
            return saving.undo(connection, person, judgment, key, client, self._now())

    # Reading

    def judgments(self, project: int, leave_out: Collection[LeftOut] = NO_VOTES) -> list[Judgment]:
        """Live judgments in the order in which they were saved: for exports and checks of quality."""
        with self._database.reading() as connection:
            return reading.standing(connection, project, leave_out)

    def flagged(self, project: int) -> list[Judgment]:
        """Live flags, the newest first."""
        with self._database.reading() as connection:
            return reading.flagged(connection, project)

    def audit(self, project: int) -> list[Judgment]:
        """Everything that was ever saved, superseded or not; `extra` as it was when saved."""
        with self._database.reading() as connection:
            return reading.audit(connection, project)

    def history(self, project: int, person: int, most: int = 50) -> list[Judgment]:
        """The person's live judgments, the newest first."""
        with self._database.reading() as connection:
            return reading.history(connection, project, person, most)

    def progress(self, project: int) -> list[Progress]:
        """What each person has done in a project; who has done nothing is not named."""
        with self._database.reading() as connection:
            return reading.progress(connection, project)

    def left(self, project: int, person: int) -> int:
        """Items that the person could judge now, those in hand included; gold and repeats are not counted."""
        with self._database.reading() as connection:
            return reading.left(connection, project, person, self._now())

    def counts(self, project: int) -> Counts:
        """How far a project is."""
        with self._database.reading() as connection:
            return reading.count(connection, project, self._now())

    def _ask_order_of(self, item: int) -> tuple[int, int]:
        with self._database.asking() as connection:
            return contents.order_of(connection, item)
