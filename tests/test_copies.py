"""A copied folder becomes a clone of its own; a moved one stays what it is."""

import shutil

import pytest

from replica.clone import Clone
from replica.errors import StoreError
from tests.helpers import certificate


@pytest.fixture
def original(tmp_path):
    with Clone.create(tmp_path / "one", "one", "garden", certificate) as clone:
        clone.edit_text("n.md", new="shared\n")
    return tmp_path / "one"


def test_a_copy_gets_an_identity_of_its_own_and_the_original_hears_of_it(original, tmp_path):
    """FAILURES 14."""
    shutil.copytree(original, tmp_path / "two")
    with Clone.open(tmp_path / "two", certify=certificate) as copy, Clone.open(original) as first:
        assert copy.copy_of == original
        assert copy.identity.id != first.identity.id
        assert copy.identity.id in first.trusted()
        copy.edit_text("n.md", new="from the copy\n")
        first.edit_text("n.md", new="from the first\n")
        assert copy.vector()[copy.identity.id] == 2
    with Clone.open(tmp_path / "two") as again:
        assert again.copy_of is None and again.name == "one-copy"


def test_both_of_a_copied_pair_agree_after_they_meet(original, tmp_path):
    from transport.session import Session

    shutil.copytree(original, tmp_path / "two")
    with Clone.open(tmp_path / "two", certify=certificate) as copy, Clone.open(original) as first:
        copy.edit_text("n.md", new="shared\nfrom the copy\n")
        first.edit_text("m.md", new="from the first\n")
        one, two = Session(copy, first.identity.id), Session(first, copy.identity.id)
        waiting = [(two, m) for m in one.open()] + [(one, m) for m in two.open()]
        while waiting:
            to, message = waiting.pop(0)
            back = one if to is two else two
            waiting += [(back, reply) for reply in to.receive(message)]
            if not waiting:
                waiting = [(two, m) for m in one.settle()] + [(one, m) for m in two.settle()]
        assert one.in_step and copy.digest() == first.digest()


def test_a_moved_folder_stays_the_clone_that_it_was(original, tmp_path):
    with Clone.open(original) as before:
        id = before.identity.id
    shutil.move(original, tmp_path / "elsewhere")
    with Clone.open(tmp_path / "elsewhere") as moved:
        assert moved.identity.id == id and moved.copy_of is None


def test_a_copy_is_not_opened_under_the_originals_identity(original, tmp_path):
    shutil.copytree(original, tmp_path / "two")
    with pytest.raises(StoreError, match="copy"):
        Clone.open(tmp_path / "two")


def test_a_crash_while_a_copy_takes_its_identity_is_made_good(original, tmp_path, monkeypatch):
    from replica import copies

    shutil.copytree(original, tmp_path / "two")
    monkeypatch.setattr(copies, "finish", lambda folder, store: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Clone.open(tmp_path / "two", certify=certificate)
    monkeypatch.undo()
    with Clone.open(tmp_path / "two", certify=certificate) as copy, Clone.open(original) as first:
        assert copy.identity.id != first.identity.id


def test_two_names_of_one_folder_are_no_copy(original):
    """Mounted twice, or spelled otherwise where upper and lower case are one."""
    with Clone.open(original) as clone:
        id = clone.identity.id
        with clone.transaction():
            clone.store.set_meta("place", str(original / ".." / original.name))
    for _ in range(2):
        with Clone.open(original, certify=certificate) as clone:
            assert clone.identity.id == id and clone.copy_of is None
