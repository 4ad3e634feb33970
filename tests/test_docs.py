"""What the documentation says is there: commands, options, files and links; and every command explains itself."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

from cli.main import MODULES, build

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text("utf-8")


@cache
def commands() -> dict:
    return dict(typer.main.get_command(build()).commands)


def code(text: str) -> list[str]:
    """All pieces of code in a page: the lines of its fenced blocks, and what stands between backticks."""
    fenced = [line for block in re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    return fenced + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def calls(text: str) -> list[list[str]]:
    """Every `replica …` in a page, as words without comments and prompt."""
    found = []
    for piece in code(text):
        line = piece.removeprefix("$ ")
        if re.match(r"replica [a-z]", line):
            found.append(shlex.split(line, comments=True)[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_exists(page):
    for name, *rest in calls(page.read_text("utf-8")):
        assert name in commands(), f"{page.name} names `replica {name}`"
        group = getattr(commands()[name], "commands", {})
        params = [p for command in (commands()[name], *group.values()) for p in command.params]
        options = {option for parameter in params for option in parameter.opts} | {"--help"}
        for word in rest:
            if re.match(r"--?[a-zA-Z]", word):
                assert word.split("=")[0] in options, f"{page.name}: `replica {name}` has no {word}"


def test_the_readme_names_every_command():
    assert {call[0] for call in calls(README)} >= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_command_has_a_help_text_with_an_example_that_is_right(name):
    command = commands()[name]
    assert command.help, f"`replica {name}` has no help"
    example = re.search(r"Examples?:\s*(replica .+)", command.help)
    assert example, f"the help of `replica {name}` shows no example"
    assert shlex.split(example[1], comments=True)[1] == name


@pytest.mark.parametrize("name", MODULES)
def test_every_option_of_a_command_is_explained(name):
    for parameter in commands()[name].params:
        if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False):
            assert getattr(parameter, "help", None), f"`replica {name}` does not explain {parameter.opts[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            there = page if not file else page.parent / file
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    for piece in code(page.read_text("utf-8")):
        if re.fullmatch(r"(?:replica|transport|cli|tests|bench|examples)/[\w/.-]*", piece):
            assert (ROOT / piece).exists(), f"{page.name} names {piece}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_a_page_names_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for piece in code(page.read_text("utf-8")):
        call = re.match(r"(?:\$ )?make ([a-z]+)", piece)
        assert not call or call[1] in targets, f"{page.name} names `make {call[1]}`"


def test_continuous_integration_runs_the_readme_test_command():
    ran = [line for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert ran[-1] == "make test"
    assert "$ make test" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page):
    for file, name in named_tests(page.read_text("utf-8")):
        assert (ROOT / "tests" / file).is_file(), f"{page.name} names {file}"
        source = (ROOT / "tests" / file).read_text("utf-8")
        assert re.search(rf"^(?:async )?def {name}\(", source, re.M), f"{page.name} names {file}::{name}"


def test_every_threat_says_what_is_promised_with_a_test_or_that_nothing_is():
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    threats = re.split(r"^## ", page, flags=re.M)[1:]
    assert len(threats) >= 12
    for threat in threats:
        title = threat.splitlines()[0]
        rows = re.findall(r"^\| (?!promised|---)(.*) \| (.*) \|$", threat, re.M) if "| promised |" in threat else []
        assert all(named_tests(shown) for _, shown in rows), f"a promise without a test under {title!r}"
        assert rows or "Not promised" in threat or title == "What `.replica` holds", title


def named_tests(text: str) -> list[tuple[str, str]]:
    """Every `file::test` in a page; files are below tests/."""
    return re.findall(r"`([\w/]+\.py)::(\w+)`", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
