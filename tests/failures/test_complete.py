"""Every line of docs/failures.md has its test, and the page names it: nobody loses one unnoticed."""

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "failures.md"
LINES = range(1, 35)
TEST = re.compile(r"^def (test_failure_(\d\d)_\w+)\(.*?\).*?:\n    \"\"\"(.+?)\"\"\"", re.MULTILINE | re.DOTALL)


def numbered() -> dict[str, int]:
    """The numbered tests with their line."""
    found = {}
    for file in HERE.glob("test_*.py"):
        for name, number, said in TEST.findall(file.read_text("utf-8")):
            assert name not in found and ": here " in said, f"{name} says what broke elsewhere, and what holds here"
            found[name] = int(number)
    return found


def test_the_numbers_from_1_to_34_all_have_a_test_with_a_sentence():
    assert sorted(set(numbered().values())) == list(LINES)
    written = [
        name
        for file in HERE.glob("test_*.py")
        for name in re.findall(r"^def (test_failure_\w+)", file.read_text("utf-8"), re.MULTILINE)
    ]
    assert sorted(written) == sorted(numbered())


def test_the_page_has_a_row_for_each_number_and_names_its_tests():
    rows = {int(number): row for number, row in re.findall(r"^\| (\d+) \|(.+)$", PAGE.read_text("utf-8"), re.MULTILINE)}
    assert sorted(rows) == list(LINES)
    by_number: dict[int, set[str]] = {}
    for name, number in numbered().items():
        by_number.setdefault(number, set()).add(name)
    for number, row in rows.items():
        named = {
            f"test_failure_{number:02}_{name}"
            for name in re.findall(r"`(\w+)`", row.rpartition("|")[0].rpartition("|")[2])
        }
        assert named == by_number[number], f"line {number}: the page names {sorted(named)}"
