"""What a newcomer runs into in the first hour: slips on the command line, a full disk, two versions of a long file."""

import asyncio
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cli import decide, peers
from cli import main as cli_main
from replica import decisions
from replica.clone import Clone
from replica.errors import ConfigError, DiskFull, PairingError
from replica.keys import Identity
from replica.store import Store
from tests.helpers import Network, conflict_ids, history, read, save

HERE = cli_main.__file__.rpartition("/cli/")[0]


def run(folder, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "REPLICA_INTERFACES": "127.0.0.1", "PYTHONPATH": HERE}
    environment.pop("REPLICA_DIR", None)
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "arguments",
    [("init", ""), ("init", "--dir", ""), ("status", "--dir", ""), ("join", "37-harbor-violet-onion", "")],
)
def test_an_empty_folder_name_is_not_the_current_folder(tmp_path, arguments):
    said = run(tmp_path, *arguments)
    assert (said.returncode, said.stdout) == (2, "")
    assert "the name of the folder is empty" in said.stderr and "replica: hint: " in said.stderr
    assert os.listdir(tmp_path) == []


def test_the_home_of_nobody_is_wrong_usage(tmp_path):
    said = run(tmp_path, "init", "~nobody-of-that-name/x")
    assert said.returncode == 2
    assert "no home folder is known for '~nobody-of-that-name'" in said.stderr and "hint: " in said.stderr


def test_what_may_not_be_read_comes_with_a_hint(tmp_path, monkeypatch, capsys):
    def closed(*_, **__):
        raise PermissionError(13, "Permission denied", "store.db")

    monkeypatch.setattr(Clone, "open", closed)
    assert cli_main.main(["members", "--dir", str(tmp_path)]) == 1
    assert "replica: hint: check whose the folder is" in capsys.readouterr().err


def test_an_option_before_the_command_is_told_where_it_belongs(tmp_path):
    said = run(tmp_path, "--dir", "x", "status")
    assert said.returncode == 2
    assert "replica: hint: options come after the command, such as `replica status --dir DIR`" in said.stderr


def test_an_invitation_says_the_port_for_where_it_is_not_found(capsys):
    event = {"event": "code", "code": "37-harbor-violet-onion", "expires": "2026-03-01T12:00:00+00:00", "port": 49061}
    peers._tell_invitation(event, json=False)
    out, err = capsys.readouterr()
    assert out == "37-harbor-violet-onion\n"
    assert "replica join 37-harbor-violet-onion DIR" in err
    assert "--peer HOST:49061" in err


def test_a_full_disk_leaves_nothing_of_a_clone_that_was_to_be(tmp_path, monkeypatch):
    def full(path):
        path.write_bytes(b"half")
        raise DiskFull("the disk takes no more")

    monkeypatch.setattr(Store, "create", full)
    (tmp_path / "note.md").write_text("mine\n")
    with pytest.raises(DiskFull):
        Clone.adopt(tmp_path, Identity.new(), b"w" * 16, "laptop")
    assert os.listdir(tmp_path) == ["note.md"]


def test_after_a_full_disk_a_join_says_what_to_do_next(tmp_path):
    assert "new code" in peers._after_full_disk(tmp_path)
    with Clone.adopt(tmp_path, Identity.new(), b"w" * 16, "laptop"):
        assert "`replica sync`" in peers._after_full_disk(tmp_path)


def test_versions_of_a_long_text_are_shown_where_they_differ():
    head = [f"line {n}" for n in range(30)]
    one, two = ("\n".join([*head, word, *(["tail"] * 9)]) for word in ("seven", "nine"))
    first, second = decide._excerpts([one, two])
    assert first[:3] == ["…", "line 29", "seven"] and first[-1] == "…"
    assert second[:3] == ["…", "line 29", "nine"]
    assert decide._excerpts(["a\nb", "a\nc"]) == [["a", "b"], ["a", "c"]]
    assert decide._excerpts(["same", "same"]) == [["same"], ["same"]]


def test_a_conflict_about_replica_toml_is_not_settled_with_one_that_is_not_valid():
    with Network("desk", "laptop") as network:
        save(network["desk"], "replica.toml", "[guard]\nfiles = 5\n")
        network.share()
        network.now += 1_000
        for name, files in (("desk", 6), ("laptop", 7)):
            save(network[name], "replica.toml", f"[guard]\nfiles = {files}\n")
            network.run(name)
        network.share()
        before, ids = read(network["desk"], "replica.toml"), conflict_ids(network["desk"])
        with pytest.raises(ConfigError):
            decisions.resolve(network["desk"], ids[0], text="this is not toml [")
        network.share()
        assert read(network["desk"], "replica.toml") == before and conflict_ids(network["desk"]) == ids
        decisions.resolve(network["desk"], ids[0], text="[guard]\nfiles = 8\n")
        assert conflict_ids(network["desk"]) == []


def test_a_removed_clone_cannot_invite_and_is_told_how_to_come_back():
    from replica import status
    from transport.inviting import invite

    async def first_event(clone):
        return await anext(invite(SimpleNamespace(clone=clone), 5.0))

    with Network("desk", "laptop") as network:
        network["desk"].remove(network["laptop"].identity.id.hex())
        network["laptop"].ingest(history(network["desk"]))
        with pytest.raises(PairingError, match="was removed") as refused:
            asyncio.run(first_event(network["laptop"]))
        assert "`replica members`" in refused.value.hint
        member = next(check for check in status.checks(network["laptop"]) if check.name == "member")
        assert "delete .replica" in member.hint
