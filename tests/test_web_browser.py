"""The page in a real browser: open, follow, decide, and whatever was written, never anything but text."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from replica.bridge import Bridge
from replica.clone import Clone
from tests.browser import chromium, installed, until
from tests.helpers import entry, sync
from tests.test_node import admitted, founder

pytestmark = pytest.mark.skipif(installed() is None, reason="there is no Chromium on this machine")
HERE = Path(__file__).resolve().parent.parent

HOSTILE = (
    "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'><svg onload=window.hurt=1>"
    " [x](javascript:window.hurt=1) &lt;b&gt; \u202eevil\u202c \x1b[31m {{7*7}}"
)


def replica(root: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "REPLICA_INTERFACES": "127.0.0.1", "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "cli.main", *arguments, "--dir", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE)


@contextlib.contextmanager
def serving(root: Path, command: str = "web", *arguments: str):
    """`replica web` (or `up`) as a process of its own: the event that says where it listens."""
    process = replica(root, command, "--json", *arguments)
    try:
        yield next(event for line in process.stdout if (event := json.loads(line))["event"] == "listening")
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def browser(chrome):
    yield chrome
    chrome.close_tabs()


@pytest.fixture
def pair(tmp_path):
    with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
        add(alice, "the first entry")
        sync(alice, bob)
        yield alice, bob


def add(clone: Clone, *texts: str, path: str = "a-buffer.md") -> None:
    clone.edit_entries(path, "union", [(1, entry(f"- {text}")) for text in texts])


def disagree(alice: Clone, bob: Clone) -> None:
    for clone in (alice, bob):
        clone.edit_entries("activeContext.md", "latest", [(1, entry(f"as {clone.name} has it"))])
    sync(alice, bob)


def shown(tab, part: str) -> str:
    return tab.run(f"document.getElementById('{part}').textContent")


def ready(tab) -> None:
    tab.until("!!document.documentElement?.dataset.moment")


def test_the_page_opens_and_shows_what_is_there(browser, pair):
    alice, _ = pair
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        assert "a-buffer.md" in shown(tab, "documents")
        assert "- the first entry" in shown(tab, "document")
        assert "alice" in shown(tab, "timeline") and "bob" in shown(tab, "peers")
        assert "unknown" in shown(tab, "measures") and "Nothing waits." in shown(tab, "waiting")
        tab.until("document.querySelector('#measures dl') !== null")
        assert tab.faults() == []


def test_what_another_clone_writes_appears_by_itself_and_is_announced(browser, pair):
    """Over real nodes: bob adds, alice's open page shows it."""
    alice, bob = pair
    here = ("--no-mdns", "--listen", "127.0.0.1:0")
    with serving(alice.root, "up", *here) as a:
        there = ("--peer", f"127.0.0.1:{a['port']}")
        with serving(bob.root, "up", *here, *there), serving(alice.root) as site:
            tab = browser.open(site["url"])
            ready(tab)
            tab.until("document.getElementById('peers').textContent.includes('in reach')")
            assert replica(bob.root, "add", "a-buffer.md", "news from bob").wait(60) == 0
            tab.until("document.getElementById('document').textContent.includes('news from bob')")
            tab.until("document.querySelector('[role=status]').textContent.includes('a-buffer.md by bob')")
            assert tab.run("document.querySelector('li.new').textContent.includes('news from bob')")
            assert "the node runs" in tab.run("document.getElementById('state').textContent")
            assert tab.faults() == []


def test_a_conflict_is_settled_with_a_click_everywhere(browser, pair):
    alice, bob = pair
    disagree(alice, bob)
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        assert tab.run("document.title").startswith("(1)")
        version = next(v for v in alice.documents.all_conflicts()[0].versions if v.text == "as bob has it").version
        tab.run(f"document.querySelector('#waiting [data-keep={version}]').click()")
        tab.until("document.getElementById('waiting').textContent.includes('Nothing waits.')")
        tab.until("document.activeElement.id === 'waiting-title'")
        assert tab.faults() == []
    assert alice.documents.all_conflicts() == []
    assert alice.text("activeContext.md").strip() == "as bob has it"
    assert (alice.root / "activeContext.md").read_text() == alice.text("activeContext.md")
    sync(alice, bob)
    assert bob.documents.all_conflicts() == []


def test_a_conflict_is_settled_in_words_of_ones_own(browser, pair):
    alice, bob = pair
    disagree(alice, bob)
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        tab.run("document.querySelector('#waiting summary').click()")
        tab.until("document.querySelector('#waiting details').open")
        area = "document.querySelector('#waiting textarea')"
        assert tab.run(f"{area}.value") in ("as alice has it", "as bob has it")
        tab.run(f"(() => {{ const a = {area}; a.focus(); a.value = ''; a.dispatchEvent(new Event('input')) }})()")
        tab.run("document.querySelector('#waiting [data-put]').click()")
        assert tab.run("document.getElementById('banner').textContent").startswith("Write something")
        words = "as <b>both</b> have it"
        tab.run(
            f"(() => {{ const a = {area}; a.focus(); a.value = '{words}'; a.setSelectionRange(3, 6);"
            " a.dispatchEvent(new Event('input')) })()"
        )
        (alice.root / "b.sync-conflict-20260301-142233-ABCDEF7.md").write_text("x\n")  # the part is drawn anew
        (alice.root / "b.md").write_text("y\n")
        Bridge(alice).run()
        tab.until("document.getElementById('waiting').textContent.includes('Syncthing')")
        assert tab.run(f"[{area}.value, {area}.selectionEnd, document.activeElement === {area}]") == [words, 6, True]
        tab.run("document.querySelector('#waiting [data-put]').click()")
        tab.until("!document.getElementById('waiting').textContent.includes('have it')")
        assert tab.faults() == []
    assert alice.text("activeContext.md").strip() == words and alice.documents.all_conflicts() == []


def test_a_held_file_is_accepted_or_restored_with_a_click(browser, pair):
    alice, _ = pair
    add(alice, *(f"entry {at}" for at in range(30)))
    alice.edit_entries("b-buffer.md", "union", [(1, entry(f"- other {at}")) for at in range(30)])
    Bridge(alice).run()
    for path in ("a-buffer.md", "b-buffer.md"):
        (alice.root / path).write_text("- one is left\n")
    Bridge(alice).run()
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        tab.run("document.querySelector('#waiting [data-key=\"accept a-buffer.md\"]').click()")
        tab.until("!document.getElementById('waiting').textContent.includes('a-buffer.md')")
        tab.run("document.querySelector('#waiting [data-key=\"reject b-buffer.md\"]').click()")
        tab.until("document.getElementById('waiting').textContent.includes('Nothing waits.')")
    assert alice.text("a-buffer.md") == "- one is left\n"
    assert (alice.root / "b-buffer.md").read_text().count("- other ") == 30


def test_a_wrong_token_shows_nothing(browser, pair):
    alice, _ = pair
    with serving(alice.root) as site:
        for url in (site["url"][:-4] + "AAAA", site["url"].partition("?")[0]):
            tab = browser.open(url)
            tab.until("document.body && document.body.textContent.includes('the token is missing or wrong')")
            assert "the first entry" not in tab.run("document.documentElement.outerHTML")


def test_another_page_can_neither_ask_nor_show_it_in_a_frame(browser, pair):
    """Even one that knows the token, and even of another port of the same host."""
    alice, bob = pair
    disagree(alice, bob)
    settling = json.dumps(json.dumps({"id": alice.documents.all_conflicts()[0].id, "keep": "v1"}))
    with serving(alice.root) as site, serving(bob.root) as other:
        token, base = site["url"].partition("token=")[2], site["url"].partition("?")[0]
        tab = browser.open("about:blank")
        tab.call("Page.setBypassCSP", enabled=True)
        tab.go(other["url"])
        ready(tab)
        known = f"Authorization: 'Bearer {token}'"
        for wanted, options in (
            ("view", f"headers: {{{known}}}"),
            ("settle", f"method: 'POST', body: {settling}, headers: {{{known}, 'Content-Type': 'application/json'}}"),
            ("settle", f"method: 'POST', body: {settling}"),
        ):
            asked = f"fetch('{base}api/{wanted}', {{{options}}}).then(() => 'read', () => 'refused')"
            assert tab.run(asked) == "refused"
        sent = f"fetch('{base}api/settle', {{method: 'POST', mode: 'no-cors', body: {settling}}})"
        assert tab.run(f"{sent}.then(() => 'sent', () => 'refused')") == "refused"
        assert len(alice.documents.all_conflicts()) == 1
        framed = f"const f = document.createElement('iframe'); f.src = '{site['url']}'; document.body.append(f);"
        tab.run(f"(() => {{ {framed} }})()")

        def blocked() -> bool:
            frames = tab.call("Page.getFrameTree")["frameTree"].get("childFrames", [])
            return [one["frame"].get("unreachableUrl") for one in frames] == [site["url"]]

        until(blocked, "that the frame stays empty")


def test_hostile_memory_is_text_and_nothing_else(browser, pair):
    alice, bob = pair
    add(bob, HOSTILE)
    bob.edit_text("<img src=x onerror=window.hurt=1>.md", new=f"{HOSTILE}\n")
    for clone in (alice, bob):
        clone.edit_entries("activeContext.md", "latest", [(1, entry(f"{clone.name} {HOSTILE}"))])
    sync(alice, bob)
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        for path in [document.path for document in alice.documents.all()]:
            tab.run(f"open({json.dumps(path)}, true)")
            tab.until(f"document.getElementById('document-title').textContent === {json.dumps(path)}")
        tab.run("(() => { document.getElementById('words').value = 'onerror'; find(true); })()")
        tab.until("document.getElementById('search-body').textContent.includes('place')")
        assert tab.run("window.hurt") is None
        assert tab.run("document.querySelectorAll('main img, main svg, main script, main a').length") == 0
        whole = tab.run("document.body.textContent")
        assert "<script>window.hurt = 1</script>" in whole
        assert "\\u202eevil\\u202c \\u001b[31m" in whole and not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", whole)
        assert tab.faults() == []


def test_no_string_becomes_markup_even_by_a_mistake_of_ours(browser, pair):
    with serving(pair[0].root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        for script in (
            "document.body.innerHTML = '<b>x</b>'", "document.write('x')", "eval('1')",
            "document.createElement('script').text = 'x'", "new Function('x')()",
        ):  # fmt: skip
            wrong = f"(() => {{ try {{ {script}; return 'done' }} catch (error) {{ return error.name }} }})()"
            assert tab.run(wrong) in ("TypeError", "EvalError"), script
        tab.run("(() => { const s = document.createElement('style'); s.textContent = 'body{display:none}';"
                " document.head.append(s); })()")  # fmt: skip
        assert tab.run("getComputedStyle(document.body).display") == "block"


def test_the_keyboard_alone_is_enough_to_settle_a_conflict(browser, pair):
    alice, bob = pair
    disagree(alice, bob)
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        tab.press("Tab", 9)
        assert tab.run("document.activeElement.className") == "skip"
        for _ in range(20):
            tab.press("Tab", 9)
            if tab.run("document.activeElement.dataset.keep") == "v1":
                break
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        tab.press("Enter", 13, "\r")
        tab.until("document.getElementById('waiting').textContent.includes('Nothing waits.')")
    assert alice.documents.all_conflicts() == []


def test_the_focus_stays_where_it_is_when_something_arrives(browser, pair):
    alice, bob = pair
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        tab.run("document.querySelector('#documents button').focus()")
        add(bob, "something new")
        sync(alice, bob)
        tab.until("document.getElementById('document').textContent.includes('something new')")
        assert tab.run("document.activeElement.dataset.key") == "document a-buffer.md"


def test_a_screen_reader_is_told_what_everything_is(browser, pair):
    alice, bob = pair
    disagree(alice, bob)
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        ready(tab)
        nodes = [n for n in tab.call("Accessibility.getFullAXTree")["nodes"] if not n["ignored"]]
        named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if "role" in n]
        assert {"banner", "navigation", "main", "search"} <= {role for role, _ in named}
        needs_name = ("button", "link", "textbox", "searchbox", "region", "navigation", "table", "article")
        assert [one for one in named if one[0] in needs_name and not one[1].strip()] == []
        versions = alice.documents.all_conflicts()[0].versions
        keep = [f"Keep {v.version} by {alice.author_name(v.clone)} in activeContext.md" for v in versions]
        assert set(keep) <= {name for role, name in named if role == "button"}
        assert tab.run("document.documentElement.lang") == "en"


CONTRAST = """(() => {
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((v) => v / 255).map(
    (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const under = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
  let least = 99;
  const all = 'h1, h2, h3, p, button, a:not(.skip), .soft, .badge, .memory, th, td, dt, dd';
  for (const e of document.querySelectorAll(all)) {
    const [a, b] = [light(getComputedStyle(e).color), light(under(e))].sort((x, y) => y - x);
    least = Math.min(least, (a + 0.05) / (b + 0.05));
  }
  return least;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(browser, pair, scheme):
    """Contrasts of WCAG 2.2, 1.4.3: 4.5 at least."""
    alice, bob = pair
    disagree(alice, bob)
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        ready(tab)
        tab.until("document.querySelector('#measures dl') !== null")
        back = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", back)[0]) > 128) == (scheme == "light")
        assert tab.run(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", [320, 768, 1600])
def test_nothing_sticks_out_of_a_narrow_screen(browser, pair, width):
    alice, bob = pair
    add(bob, "long" * 200)
    disagree(alice, bob)
    with serving(alice.root) as site:
        tab = browser.open(site["url"])
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=width < 500)
        ready(tab)
        assert tab.run("document.documentElement.scrollWidth") <= width


def test_a_page_whose_server_has_ended_says_so(browser, pair):
    with serving(pair[0].root) as site:
        tab = browser.open(site["url"])
        ready(tab)
    tab.until("document.getElementById('banner').textContent.includes('has replica web ended?')")
