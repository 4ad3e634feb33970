"""An old memory bank becomes one of this layout, and goes back: nothing overwritten, nothing lost, no level shared."""

import os
from pathlib import Path

import pytest

from replica import migrate
from replica.bridge import Bridge
from replica.config import DEFAULT
from replica.errors import NotFound, StoreError
from replica.migrate import destination
from tests.helpers import Network, assert_same, read, save
from tests.test_cli_memory import Terminal, fresh  # noqa: F401

LIST = "# L\n\n- one\n- two\n"
LONG = "# P\n\n" + "".join(f"## {n}\nA paragraph.\nAnd another line.\n\n" for n in range(15))

PLACES = [
    ("lessons.md", LIST, "lessons-buffer.md"),
    ("bank/Lessons_Learned.md", LIST, "bank/lessons-buffer.md"),
    ("bank/patterns.md", LIST, "bank/patterns-buffer.md"),
    ("bank/patterns.md", LONG, "Docs/03-Reference/Patterns.md"),
    ("bank/decisionLog.md", LIST, "bank/decisions-inbox.md"),
    ("bank/active-context.md", LONG, "bank/activeContext.md"),
    ("bank/session_log.md", LIST, "bank/SESSION_LOG.md"),
    ("bank/systemPatterns.md", LONG, "Docs/03-Reference/systemPatterns.md"),
    ("bank/API.md", LONG, "Docs/03-Reference/API.md"),
    ("bank/rest/api-users.md", LIST, "Docs/03-Reference/api-users.md"),
    ("bank/architecture-overview.md", LONG, "Docs/02-Architecture/architecture-overview.md"),
    ("bank/projectbrief.md", LONG, "Docs/01-Product/projectbrief.md"),
    ("bank/deployment.md", LONG, "Docs/04-Guides/deployment.md"),
    ("bank/adr/ADR-003-x.md", LONG, "Docs/03-Reference/ADR/ADR-003-x.md"),
    ("bank/postmortem-2025-01.md", LONG, "Docs/06-PostMortems/postmortem-2025-01.md"),
    ("bank/insights.md", LIST, "bank/insights-buffer.md"),
    ("bank/notes/gauges.md", LIST, ""),
    ("bank/essay.md", LONG, ""),
    ("bank/README.md", LIST, ""),
    ("bank/progress.md", LIST, ""),
    ("bank/activeContext.md", LONG, ""),
    ("bank/SESSION_LOG.md", LIST, ""),
    ("bank/own-buffer.md", LIST, ""),
]


@pytest.mark.parametrize(("path", "text", "to"), PLACES, ids=[place[0] + " to " + place[2] for place in PLACES])
def test_a_file_goes_where_its_name_and_content_say(path, text, to):
    assert destination(path, text, "bank")[0] == to


@pytest.fixture
def bank():
    """Two clones of an old memory bank."""
    with Network("alice", "bob") as net:
        for path, text in FILES.items():
            save(net["alice"], path, text)
        net.share()
        yield net


FILES = {
    "memory-bank/lessons.md": "# Lessons\n\n- one\r\n- two",  # odd bytes stay what they are
    "memory-bank/API.md": "# API\n\nWords about it.\n",
    "memory-bank/architecture.md": "# How it is built\n",
    "memory-bank/techContext.md": "# Tech\n",
    "memory-bank/roadmap.md": "# Plans\n",
    "memory-bank/security.md": "# Safe\n",
    "memory-bank/setup.md": "# Set up\n",
    "memory-bank/activeContext.md": "now\n",
}
MOVED = {
    "memory-bank/lessons-buffer.md": "memory-bank/lessons.md",
    "Docs/03-Reference/API.md": "memory-bank/API.md",
    "Docs/03-Reference/security.md": "memory-bank/security.md",
    "Docs/02-Architecture/architecture.md": "memory-bank/architecture.md",
    "Docs/02-Architecture/techContext.md": "memory-bank/techContext.md",
    "Docs/01-Product/roadmap.md": "memory-bank/roadmap.md",
    "Docs/04-Guides/setup.md": "memory-bank/setup.md",
}


def carried_out(net: Network, name: str = "alice") -> migrate.Migration:
    return migrate.carry_out(net[name], migrate.plan(net[name]))


def files(net: Network, name: str) -> dict[str, str]:
    root = net[name].root
    return {f.relative_to(root).as_posix(): f.read_bytes().decode() for f in root.rglob("*.md")}


def test_files_are_moved_byte_for_byte_and_documents_follow_everywhere(bank):
    done = carried_out(bank)
    assert {move.to: move.path for move in done.moves} == MOVED and done.left == []
    stay = {path: text for path, text in FILES.items() if path not in MOVED.values()}
    assert files(bank, "alice") == {**stay, **{to: FILES[path] for to, path in MOVED.items()}}
    assert Bridge(bank["alice"]).held() == []
    bank.share()
    assert_same(*bank.clones.values())
    assert files(bank, "bob").keys() == files(bank, "alice").keys()
    assert bank["bob"].document("memory-bank/lessons-buffer.md").policy == "union"


def test_an_undo_puts_everything_back_byte_for_byte(bank):
    carried_out(bank)
    bank.share()
    done = migrate.undo(bank["alice"])
    assert len(done.moves) == len(MOVED) and done.left == []
    assert files(bank, "alice") == FILES
    assert not (bank["alice"].root / "Docs").exists()
    bank.share()
    assert_same(*bank.clones.values())
    assert files(bank, "bob").keys() == FILES.keys()
    assert migrate.undo(bank["alice"]).moves == []


def test_what_was_edited_since_stays_where_it_is_and_is_named(bank):
    carried_out(bank)
    bank.share()
    save(bank["bob"], "Docs/03-Reference/API.md", "# API\n\nMore words about it.\n")
    bank.share()
    done = migrate.undo(bank["alice"])
    assert [(left.path, "edited since" in left.reason) for left in done.left] == [("Docs/03-Reference/API.md", True)]
    assert read(bank["alice"], "Docs/03-Reference/API.md") == "# API\n\nMore words about it.\n"
    assert len(done.moves) == len(MOVED) - 1
    save(bank["alice"], "Docs/03-Reference/API.md", FILES["memory-bank/API.md"])  # as it was: the rest goes back, too
    assert [move.to for move in migrate.undo(bank["alice"]).moves] == ["memory-bank/API.md"]


def test_an_undo_tried_dry_changes_nothing(bank):
    carried_out(bank)
    before = files(bank, "alice")
    assert len(migrate.undo(bank["alice"], dry_run=True).moves) == len(MOVED)
    assert files(bank, "alice") == before


def test_nothing_is_overwritten(bank):
    alice = bank["alice"]
    save(alice, "Docs/03-Reference/API.md", "mine\n")
    bank.share()
    planned = migrate.plan(alice)
    assert [(left.path, left.reason) for left in planned.left] == [
        ("memory-bank/API.md", "Docs/03-Reference/API.md is there already")
    ]  # fmt: skip
    save(alice, "memory-bank/lessons-buffer.md", "- came since the plan\n")
    done = migrate.carry_out(alice, planned)
    assert "memory-bank/lessons.md" in [left.path for left in done.left]
    assert read(alice, "memory-bank/lessons-buffer.md") == "- came since the plan\n"
    assert read(alice, "Docs/03-Reference/API.md") == "mine\n"
    assert read(alice, "memory-bank/lessons.md") == FILES["memory-bank/lessons.md"]


def test_a_name_that_differs_in_case_alone_is_renamed_and_put_back(bank):
    save(bank["alice"], "memory-bank/session_log.md", "# Log\n\n- begun\n")
    bank.share()
    done = carried_out(bank)
    assert "memory-bank/SESSION_LOG.md" in {move.to for move in done.moves} and done.left == []
    bank.share()
    for name in bank.clones:
        assert files(bank, name)["memory-bank/SESSION_LOG.md"] == "# Log\n\n- begun\n"
        assert "memory-bank/session_log.md" not in files(bank, name)
        assert bank[name].document("memory-bank/SESSION_LOG.md").policy == "log"
    assert migrate.undo(bank["alice"]).left == []
    assert "memory-bank/session_log.md" in files(bank, "alice")


def test_where_case_does_not_count_a_rename_is_no_loss(bank, monkeypatch):
    """A file system that holds two such names as one is played: both lead to the one file."""
    alice = bank["alice"]
    save(alice, "memory-bank/session_log.md", "- begun\n")
    old, new = alice.root / "memory-bank/session_log.md", alice.root / "memory-bank/SESSION_LOG.md"
    is_file, exists, same = Path.is_file, Path.exists, os.path.samefile
    monkeypatch.setattr(Path, "is_file", lambda path: is_file(old if path == new and not exists(new) else path))
    monkeypatch.setattr(os.path, "samefile", lambda a, b: {a, b} == {old, new} or same(a, b))
    assert migrate._move(alice.root, "memory-bank/session_log.md", "memory-bank/SESSION_LOG.md") == ""
    assert os.listdir(new.parent).count("SESSION_LOG.md") == 1 and new.read_text() == "- begun\n"


def test_an_undo_overwrites_nothing_either(bank):
    carried_out(bank)
    save(bank["alice"], "memory-bank/API.md", "new there\n")
    done = migrate.undo(bank["alice"])
    assert [left.path for left in done.left] == ["Docs/03-Reference/API.md"]
    assert read(bank["alice"], "memory-bank/API.md") == "new there\n"


def test_two_files_of_one_destination_are_not_one(bank):
    save(bank["alice"], "memory-bank/old/API.md", "# Another\n")
    bank.share()
    planned = migrate.plan(bank["alice"])
    assert len([move for move in planned.moves if move.to == "Docs/03-Reference/API.md"]) == 1
    assert ["there already" in left.reason for left in planned.left] == [True]


def test_what_others_write_meanwhile_is_lost_nowhere(bank):
    carried_out(bank)
    save(bank["bob"], "memory-bank/lessons.md", "# Lessons\n\n- one\n- two\n- three, by bob\n")
    save(bank["bob"], "memory-bank/API.md", "# API\n\nWords about it, by bob.\n")
    bank.share()
    assert_same(*bank.clones.values())
    everything = "".join(files(bank, "alice").values())
    assert "three, by bob" in everything and "about it, by bob" in everything


def test_two_clones_that_migrate_at_once_move_each_file_once(bank):
    carried_out(bank, "alice"), carried_out(bank, "bob")
    bank.share()
    assert_same(*bank.clones.values())
    assert sorted(files(bank, "alice")) == sorted([*MOVED, "memory-bank/activeContext.md"])
    assert read(bank["bob"], "Docs/03-Reference/API.md") == FILES["memory-bank/API.md"]
    assert read(bank["bob"], "memory-bank/lessons-buffer.md").count("- two") == 1


# --- levels


RULE = '[[documents]]\nglob = "{}"\npolicy = "{}"\nlevel = {}\n\n'


def with_rules(*rules: tuple[str, str, int]) -> str:
    added = "".join(RULE.format(*rule) for rule in rules)
    return DEFAULT.replace("# What is going on now", f"{added}# What is going on now", 1)


def test_a_document_of_another_level_is_not_moved(bank):
    alice = bank["alice"]
    alice.set_config(with_rules(("memory-bank/secret-api.md", "text", 0)))
    save(alice, "memory-bank/secret-api.md", "hidden\n")
    bank.run("alice")
    planned = migrate.plan(alice)
    assert [(left.path, "level" in left.reason) for left in planned.left] == [("memory-bank/secret-api.md", True)]


def test_a_document_with_entries_of_level_0_is_not_moved(bank):
    from replica import writing

    alice = bank["alice"]
    alice.set_config(with_rules(("memory-bank/api-notes.md", "union", 1)))
    save(alice, "memory-bank/api-notes.md", "- shared\n")
    bank.run("alice")
    writing.add(alice, "memory-bank/api-notes.md", "hidden", level=0)
    bank.run("alice")
    assert [(left.path, "level 0" in left.reason) for left in migrate.plan(alice).left] == [
        ("memory-bank/api-notes.md", True)
    ]


def test_a_file_that_would_be_no_document_any_more_is_not_moved(bank):
    alice = bank["alice"]
    alice.set_config('[[documents]]\nglob = "memory-bank/**"\n')
    planned = migrate.plan(alice)
    assert all(move.to.startswith("memory-bank/") for move in planned.moves)
    assert all("not be shared any more" in left.reason for left in planned.left) and planned.left


# --- folders and records


def test_the_bank_is_found_or_named_and_a_wrong_name_is_said(bank):
    alice = bank["alice"]
    save(alice, "other/lessons.md", "- x\n")
    bank.share()
    assert {move.path for move in migrate.plan(alice).moves} == set(MOVED.values())
    assert [move.to for move in migrate.plan(alice, "other").moves] == ["other/lessons-buffer.md"]
    with pytest.raises(NotFound) as raised:
        migrate.plan(alice, "nowhere")
    assert raised.value.hint


def test_a_migration_that_was_cut_short_goes_on(bank, monkeypatch):
    alice, real, moves = bank["alice"], migrate._move, []

    def dying(root, path, to):
        if len(moves) == 3:
            raise KeyboardInterrupt
        moves.append(path)
        return real(root, path, to)

    monkeypatch.setattr(migrate, "_move", dying)
    with pytest.raises(KeyboardInterrupt):
        carried_out(bank)
    monkeypatch.setattr(migrate, "_move", real)
    assert {move.to: move.path for move in migrate.plan(alice).moves} == MOVED
    assert len(carried_out(bank).moves) == len(MOVED)
    bank.share()
    assert sorted(files(bank, "bob")) == sorted([*MOVED, "memory-bank/activeContext.md"])
    migrate.undo(alice)
    assert files(bank, "alice") == FILES


def test_a_damaged_record_is_an_error_with_the_way_out(bank):
    carried_out(bank)
    (record,) = (bank["alice"].root / ".replica" / "migrations").iterdir()
    record.write_text("{")
    with pytest.raises(StoreError) as raised:
        migrate.undo(bank["alice"])
    assert "0001.json" in raised.value.hint


def test_migrations_are_undone_one_after_the_other(bank):
    carried_out(bank)
    save(bank["alice"], "memory-bank/glossary.md", "# Words\n")
    bank.share()
    carried_out(bank)
    assert [move.to for move in migrate.undo(bank["alice"]).moves] == ["memory-bank/glossary.md"]
    assert len(migrate.undo(bank["alice"]).moves) == len(MOVED)


# --- the command


@pytest.fixture
def desk(fresh: Terminal):  # noqa: F811
    for path, text in FILES.items():
        (fresh.root / path).parent.mkdir(exist_ok=True)
        (fresh.root / path).write_bytes(text.encode())
    fresh("init", "--name", "desk", "--workspace", "team")
    return fresh


def test_the_command_shows_the_plan_moves_and_takes_back(desk):
    desk("migrate", "--dry-run")
    assert "memory-bank/API.md → Docs/03-Reference/API.md" in desk.out and "7 files would be moved" in desk.err
    assert (desk.root / "memory-bank/API.md").is_file()
    said = desk.json("migrate", "memory-bank")
    assert len(said["moves"]) == 7 and {"path", "to", "why"} == said["moves"][0].keys()
    assert desk.json("status")["held"] == []
    assert (desk.root / "Docs/03-Reference/API.md").is_file()
    desk("migrate")
    assert "nothing to move" in desk.err
    desk("migrate", "memory-bank", "--undo", code=2)
    assert "'memory-bank'" in desk.err and "hint" in desk.err
    desk("migrate", "--undo", "--dry-run")
    assert "7 files would be put back" in desk.err
    desk("migrate", "--undo")
    assert "7 files put back" in desk.err
    assert (desk.root / "memory-bank/lessons.md").read_bytes().decode() == FILES["memory-bank/lessons.md"]
    desk("migrate", "--undo")
    assert "nothing was migrated here" in desk.err


def test_a_folder_outside_is_refused(desk):
    desk("migrate", "/etc", code=1)
    assert "hint" in desk.err


def test_the_folder_is_the_one_that_a_person_sees(desk, monkeypatch):
    for here, named in ((desk.root, "memory-bank"), (desk.root / "memory-bank", "."), (desk.root, "memory-bank/")):
        monkeypatch.chdir(here)
        assert len(desk.json("migrate", named, "--dry-run")["moves"]) == 7
    monkeypatch.chdir(desk.root)
    assert len(desk.json("migrate", ".", "--dry-run")["moves"]) == 7, "all below the clone's folder"
