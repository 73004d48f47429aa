"""People, their passwords, sign-in links and sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, get_args

from sqlalchemy import Connection, Row, bindparam, delete, select, update

from trimtab.errors import ConflictError, FeedbackError, NotFoundError
from trimtab.feedback.store.engine import insert
from trimtab.feedback.store.facts import Person, Role
from trimtab.feedback.store.passwords import password_fits, token_hash
from trimtab.feedback.store.tables import Moment, leases, people, sessions, sign_ins
from trimtab.feedback.store.texts import check_name, folded

_LOCK = select(people.c.active).where(people.c.id == bindparam("person")).with_for_update(key_share=True)
_OF_SESSION = (
    select(people)
    .join(sessions, sessions.c.person == people.c.id)
    .where(
        sessions.c.hash == bindparam("hash"),
        sessions.c.expires_at > bindparam("now", type_=Moment),
        people.c.active,
    )
)


def add_person(connection: Connection, name: str, role: Role, now: datetime) -> Person:
    name = check_name(name, "person")
    if role not in get_args(Role):
        raise FeedbackError("no such role", where="role", found=repr(role), fix="write admin or annotator")
    made = connection.execute(
        insert(connection, people)
        .values(name=name, folded=folded(name), role=role, active=True, created_at=now)
        .on_conflict_do_nothing()
        .returning(people)
    ).one_or_none()
    if made is None:
        raise ConflictError(
            "there is a person of this name", where="name", found=repr(name), fix="write another name"
        )
    return _person(made)


def all_people(connection: Connection) -> list[Person]:
    return [_person(row) for row in connection.execute(select(people).order_by(people.c.folded))]


def one_person(connection: Connection, person: int) -> Person:
    row = connection.execute(select(people).where(people.c.id == person)).one_or_none()
    if row is None:
        raise _no_person(person)
    return _person(row)


def person_named(connection: Connection, name: str) -> Person | None:
    row = connection.execute(select(people).where(people.c.folded == folded(name))).one_or_none()
    return None if row is None else _person(row)


def lock_person(connection: Connection, person: int) -> None:
    """Let nobody else claim or save for this person until the unit ends.

    Raises:
        NotFoundError: no such person.
        FeedbackError: the person is deactivated.
    """
    active = connection.execute(_LOCK, {"person": person}).scalar_one_or_none()
    if active is None:
        raise _no_person(person)
    if not active:
        raise FeedbackError("the account is deactivated", where=f"person {person}", fix="ask an admin")


def set_password(connection: Connection, person: int, hashed: str) -> None:
    """Whoever was signed in with the old one is signed out."""
    done = connection.execute(update(people).where(people.c.id == person).values(password=hashed))
    if not done.rowcount:
        raise _no_person(person)
    end_sessions(connection, person)


def password_hash(connection: Connection, name: str) -> tuple[Person, str | None] | None:
    """The active person of this name, and the hash of the password."""
    row = connection.execute(
        select(people).where(people.c.folded == folded(name), people.c.active)
    ).one_or_none()
    return None if row is None else (_person(row), row.password)


def verified(password: str, found: tuple[Person, str | None] | None) -> Person | None:
    """The person, if the password is right. Outside any unit: it takes long, on purpose."""
    person, hashed = found or (None, None)
    return person if password_fits(password, hashed) else None


def create_sign_in(connection: Connection, person: int, token: str, expires: datetime) -> None:
    lock_person(connection, person)
    connection.execute(
        sign_ins.insert().values(hash=token_hash(token), person=person, expires_at=expires, used_at=None)
    )


def redeem_sign_in(connection: Connection, token: str, now: datetime) -> Person | None:
    """One statement marks and checks: of two who redeem it at once, one is let in."""
    person = connection.execute(
        update(sign_ins)
        .where(
            sign_ins.c.hash == token_hash(token), sign_ins.c.used_at.is_(None), sign_ins.c.expires_at > now
        )
        .values(used_at=now)
        .returning(sign_ins.c.person)
    ).scalar_one_or_none()
    return None if person is None else _if_active(one_person(connection, person))


def start_session(connection: Connection, person: int, token: str, now: datetime, expires: datetime) -> None:
    lock_person(connection, person)
    connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
    connection.execute(sessions.insert().values(hash=token_hash(token), person=person, expires_at=expires))


def find_session(connection: Connection, token: str, now: datetime) -> Person | None:
    row = connection.execute(_OF_SESSION, {"hash": token_hash(token), "now": now}).one_or_none()
    return None if row is None else _person(row)


def end_session(connection: Connection, token: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.hash == token_hash(token)))


def end_sessions(connection: Connection, person: int) -> None:
    connection.execute(delete(sessions).where(sessions.c.person == person))


def deactivate(connection: Connection, person: int, now: datetime) -> None:
    """Sign the person out for good, and let the others have what the person held. Judgments stay.

    Raises:
        FeedbackError: the last active admin would go.
    """
    admins = select(people.c.id).where(people.c.role == "admin", people.c.active).order_by(people.c.id)
    active_admins = connection.execute(admins.with_for_update(key_share=True)).scalars().all()
    if list(active_admins) == [person]:
        raise FeedbackError(
            "this is the last admin", where=f"person {person}", fix="make another admin first, then try again"
        )
    _set_active(connection, person, False)
    end_sessions(connection, person)
    connection.execute(delete(sign_ins).where(sign_ins.c.person == person))
    connection.execute(
        update(leases).where(leases.c.person == person, leases.c.expires_at > now).values(expires_at=now)
    )


def reactivate(connection: Connection, person: int) -> None:
    _set_active(connection, person, True)


def _set_active(connection: Connection, person: int, active: bool) -> None:
    if not connection.execute(update(people).where(people.c.id == person).values(active=active)).rowcount:
        raise _no_person(person)


def _if_active(person: Person) -> Person | None:
    return person if person.active else None


def _no_person(person: int) -> NotFoundError:
    return NotFoundError("no such person", where=f"person {person}", fix="look at the list of people")


def _person(row: Row[Any]) -> Person:
    return Person(
        id=row.id,
        name=row.name,
        role=row.role,
        active=row.active,
        has_password=row.password is not None,
        created_at=row.created_at,
    )
