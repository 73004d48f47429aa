"""People, passwords, sign-in links, sessions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from trimtab.errors import ConflictError, FeedbackError, NotFoundError

if TYPE_CHECKING:
    from conftest import World

PASSWORD = "correct horse battery"


def test_a_person(world: World) -> None:
    made = world.store.add_person("  Ann Lee ", "admin")
    assert (made.name, made.role, made.active, made.has_password) == ("Ann Lee", "admin", True, False)
    assert made.created_at == world.clock.now
    assert world.store.person(made.id) == made == world.store.person_named("ANN LEE")
    assert world.store.people() == [made]


@pytest.mark.parametrize("name", ["ann", "ANN", " Ann", "\uff21nn"])
def test_no_two_people_look_alike(world: World, name: str) -> None:
    world.store.add_person("Ann")
    with pytest.raises(ConflictError, match="there is a person of this name"):
        world.store.add_person(name)
    assert len(world.store.people()) == 1


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0", "a\ud800", "\u202eann", "x" * 81])
def test_names_that_cannot_be_read_or_stored(world: World, name: str) -> None:
    with pytest.raises(FeedbackError, match="1 to 80 visible characters"):
        world.store.add_person(name)
    assert world.store.person_named(name) is None


def test_only_two_roles(world: World) -> None:
    with pytest.raises(FeedbackError, match="no such role"):
        world.store.add_person("Ann", "owner")  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, -1, 7, 2**31, 2**63, 10**30])
def test_numbers_of_nobody(world: World, number: int) -> None:
    with pytest.raises(NotFoundError, match="no such person"):
        world.store.person(number)
    with pytest.raises(NotFoundError, match="no such person"):
        world.store.start_session(number)
    with pytest.raises(NotFoundError, match="no such person"):
        world.store.deactivate(number)


def test_a_password(world: World) -> None:
    ann = world.person("Ann")
    assert world.store.verify_password("Ann", PASSWORD) is None
    session = world.store.start_session(ann.id)
    world.store.set_password(ann.id, PASSWORD)
    assert world.store.find_session(session) is None, "an old session outlived the new password"
    found = world.store.verify_password(" ann", PASSWORD)
    assert found is not None and (found.id, found.has_password) == (ann.id, True)
    for name, password in [("Ann", PASSWORD + "!"), ("Ann", ""), ("Bob", PASSWORD), ("a\0", PASSWORD)]:
        assert world.store.verify_password(name, password) is None
    assert world.store.verify_password("Ann", "\ud800" * 12) is None
    assert world.store.verify_password("Ann", PASSWORD + "x" * 2000) is None


@pytest.mark.parametrize("password", ["short", "x" * 1001])
def test_passwords_of_the_wrong_length_are_not_repeated(world: World, password: str) -> None:
    ann = world.person()
    with pytest.raises(FeedbackError, match=f"found: {len(password)} characters") as refusal:
        world.store.set_password(ann.id, password)
    assert password not in str(refusal.value)


def test_a_sign_in_link_works_once_and_not_for_ever(world: World) -> None:
    ann = world.person()
    first, second = world.store.create_sign_in(ann.id), world.store.create_sign_in(ann.id)
    found = world.store.redeem_sign_in(first)
    assert found is not None and found.id == ann.id
    assert world.store.redeem_sign_in(first) is None
    world.clock.ahead(days=3)
    assert world.store.redeem_sign_in(second) is None
    assert world.store.redeem_sign_in("nonsense") is None


def test_of_many_who_redeem_a_link_at_once_one_is_let_in(world: World) -> None:
    token = world.store.create_sign_in(world.person().id)
    with ThreadPoolExecutor(6) as pool:
        let_in = list(pool.map(lambda _: world.store.redeem_sign_in(token), range(6)))
    assert sum(person is not None for person in let_in) == 1


def test_sessions_end(world: World) -> None:
    ann, bob = world.person(), world.person()
    phone, desk, his = (world.store.start_session(person.id) for person in (ann, ann, bob))
    assert [world.store.find_session(token) for token in (phone, desk, his)] == [ann, ann, bob]
    world.store.end_session(phone)
    assert [world.store.find_session(token) for token in (phone, desk, his)] == [None, ann, bob]
    world.store.end_sessions(ann.id)
    assert [world.store.find_session(token) for token in (desk, his)] == [None, bob]
    world.clock.ahead(days=30)
    assert world.store.find_session(his) is None
    short = world.store.start_session(ann.id, timedelta(minutes=1))
    assert world.store.find_session(short) == ann
    world.clock.ahead(minutes=1)
    assert world.store.find_session(short) is None


def test_no_secret_is_in_the_database(world: World) -> None:
    ann = world.person()
    world.store.set_password(ann.id, PASSWORD)
    secrets = [PASSWORD, world.store.create_sign_in(ann.id), world.store.start_session(ann.id)]
    stored = []
    with world.store._database.reading() as connection:
        for table in ("people", "sign_ins", "sessions"):
            stored += [str(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]
    assert len(stored) == 3
    assert not [secret for secret in secrets if secret in "".join(stored)]
    assert "$argon2id$" in "".join(stored)


def test_who_is_deactivated_can_do_nothing(world: World) -> None:
    ann, bob = world.person("Ann"), world.person()
    world.store.set_password(ann.id, PASSWORD)
    project = world.project(items=1)
    task = world.task(project, ann)
    link, session = world.store.create_sign_in(ann.id), world.store.start_session(ann.id)
    world.store.deactivate(ann.id)
    assert not world.store.person(ann.id).active
    assert world.store.verify_password("Ann", PASSWORD) is None
    assert world.store.redeem_sign_in(link) is None
    assert world.store.find_session(session) is None
    for act in (
        lambda: world.store.claim(project.id, ann.id, 1),
        lambda: world.store.save(world.draft(task, ann)),
        lambda: world.store.start_session(ann.id),
        lambda: world.store.create_sign_in(ann.id),
    ):
        with pytest.raises(FeedbackError, match="deactivated"):
            act()
    assert world.task(project, bob).item == task.item, "what she held was not given back"
    world.store.reactivate(ann.id)
    assert world.store.verify_password("Ann", PASSWORD) == world.store.person(ann.id)
    assert world.store.find_session(session) is None


def test_the_last_admin_stays(world: World) -> None:
    first, second = world.store.add_person("A", "admin"), world.store.add_person("B", "admin")
    with ThreadPoolExecutor(2) as pool:
        went = list(pool.map(lambda person: _goes(world, person.id), (first, second)))
    assert sorted(went) == [False, True]
    assert [person.active for person in world.store.people()].count(True) == 1


def _goes(world: World, person: int) -> bool:
    try:
        world.store.deactivate(person)
    except FeedbackError as error:
        assert "last admin" in str(error)
        return False
    return True
