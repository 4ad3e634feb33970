"""A text in sections."""

import time

from hypothesis import given
from hypothesis import strategies as st

from replica.cloud.sections import LONGEST, parts, sections, without_front_matter

LINES = st.sampled_from(
    ["# A", "## B", "# A #", "text", "", "- x", "```", "Under", "---", "===", "  more", "#no", "é 🧠"]
)


def test_a_text_falls_into_sections_by_its_headings_and_not_by_its_code():
    text = "before\n\n# A\none\n\n## B ##\n```\n# no heading\n```\n\n# A\ntwo\n\nUnder\n---\nthree\n#5 is none\n# \n"
    assert [(section.heading, section.text, section.occurrence) for section in sections(text)] == [
        ((), "before", 1),
        (("A",), "# A\none", 1),
        (("A", "B"), "## B ##\n```\n# no heading\n```", 1),
        (("A",), "# A\ntwo", 2),
        (("A", "Under"), "Under\n---\nthree\n#5 is none", 1),
    ]
    assert [part.heading for part in parts(text)][-1] == ("",)
    assert sections("") == [] and sections("# A\n\n## B\n") == []


def test_front_matter_is_no_section():
    assert [section.text for section in sections("---\ntags: [a]\n---\n# A\none\n")] == ["# A\none"]
    assert sections("---\nnever closed\n")[0].text.endswith("never closed")


@given(st.lists(LINES, max_size=30))
def test_a_section_stands_in_its_text_word_for_word(lines):
    text = "\n".join(lines) + "\n"
    found = sections(text)
    assert all(section.text in text for section in found)
    names = [(section.heading, section.occurrence, section.part) for section in found]
    assert len(set(names)) == len(names)
    words = "".join(without_front_matter(text).split())
    assert len("".join("".join(section.text.split()) for section in found)) <= len(words)


def test_a_long_section_is_divided_and_nothing_of_it_is_lost():
    text = "# A\n" + "\n\n".join("word " * 300 for _ in range(30)) + "\n\n" + "x" * 20_000
    found = sections(text)
    assert [section.part for section in found] == list(range(1, len(found) + 1))
    assert all(len(section.text) <= LONGEST for section in found)
    assert "".join("".join(section.text.split()) for section in found) == "".join(text.split())


def test_a_hostile_heading_takes_no_time():
    began = time.process_time()
    sections("# " + " " * 400_000 + "x" + " " * 400_000 + "y\n")
    assert time.process_time() - began < 5.0
