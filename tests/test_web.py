"""The page's server over real HTTP on loopback: who may ask, what is refused, and what a click does."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from cli import web as cli_web
from replica import page
from replica.bridge import Bridge
from replica.clone import Clone
from replica.errors import CannotListen, NotFound
from tests.helpers import Network, add, entry, sync
from tests.test_node import admitted, founder, on_loopback, running  # noqa: F401 - a fixture
from transport import control, http1, web
from transport.web import Site

HERE = Path(__file__).resolve().parent.parent


class Got(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def send(site: Site, raw: bytes) -> Got:
    """What the server answers to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(raw)
            await writer.drain()
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    line, *rest = head.decode().split("\r\n")
    pairs = (one.split(": ", 1) for one in rest)
    return Got(int(line.split()[1]), {name.lower(): value for name, value in pairs}, body)


def request(site: Site, target: str, body: Any = None, *, method: str | None = None, **headers: str | None) -> bytes:
    """A request as the page makes it; a header of None is left out."""
    sent = {"Host": f"127.0.0.1:{site.port}", "Authorization": f"Bearer {site.token}"}
    data = b"" if body is None else body if type(body) is bytes else json.dumps(body).encode()
    if body is not None:
        sent |= {"Origin": f"http://127.0.0.1:{site.port}", "Content-Type": "application/json"}
        sent["Content-Length"] = str(len(data))
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in sent.items() if value is not None]
    method = method or ("GET" if body is None else "POST")
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines]).encode() + b"\r\n\r\n" + data


async def ask(site: Site, target: str, body: Any = None, **more: Any) -> Got:
    return await send(site, request(site, target, body, **more))


def served(root: Path, story) -> None:
    """`story` of a site that is served for as long as it takes."""

    async def run():
        site = Site(root)
        await site.serve()
        try:
            await asyncio.wait_for(story(site), 60)
        finally:
            await site.close()

    asyncio.run(run())


@pytest.fixture
def pair():
    with Network("alice", "bob") as network:
        network.now += 1_000
        add(network["alice"], "a-buffer.md", "- one")
        network.sync_all()
        yield network


def disagree(pair) -> str:
    """The id of a new conflict."""
    for name in ("alice", "bob"):
        pair[name].edit_entries("activeContext.md", "latest", [(1, entry(f"as {name} has it"))])
    pair.sync_all()
    (conflict,) = pair["alice"].documents.all_conflicts()
    return conflict.id


# --- who may ask


def test_the_page_comes_with_its_token_and_with_no_other(pair):
    async def story(site):
        good = await send(site, request(site, f"/?token={site.token}", Authorization=None))
        assert good.status == 200 and b"<main" in good.body
        for token in ("", "x", site.token[:-1], site.token + "x", site.token.swapcase(), "%00", "%C3%A9", "é"):
            target = "/?token=" + token.encode("ascii", "ignore").decode()
            assert (await ask(site, target)).status == 403, token
        assert (await ask(site, "/")).status == 403
        assert (await ask(site, f"/?token={site.token}&token={site.token}")).status == 400

    served(pair["alice"].root, story)


@pytest.mark.parametrize("path", [path for path in web.ROUTES if path != "/"])
def test_nothing_is_answered_without_the_token_in_a_header(pair, path):
    (method,) = web.ROUTES[path]
    body = {} if method == "POST" else None

    async def story(site):
        for given in (None, "", "Bearer ", "Bearer x", f"Bearer {site.token}x", f"Basic {site.token}"):
            got = await ask(site, f"{path}?token={site.token}", body, Authorization=given)
            assert got.status == 403 and "token" in got.json["error"]

    served(pair["alice"].root, story)


def test_a_token_is_new_at_every_start_and_long(pair):
    tokens = {Site(pair["alice"].root).token for _ in range(20)}
    assert len(tokens) == 20 and all(len(token) >= 22 for token in tokens)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost:{port}.evil.example", "[::1]:{port}",
     "127.0.0.1:{port}@evil.example", "127.1:{port}", "0.0.0.0:{port}", "2130706433:{port}",
     "LOCALHOST:{port}x", "", None],
)  # fmt: skip
def test_a_foreign_name_that_leads_here_gets_nothing(pair, host):
    """DNS rebinding: the browser says whom it thinks it asks."""

    async def story(site):
        said = None if host is None else host.format(port=site.port)
        for target in (f"/?token={site.token}", "/api/view", "/api/document?path=a-buffer.md"):
            got = await ask(site, target, Host=said)
            assert got.status == 403 and b"one" not in got.body

    served(pair["alice"].root, story)


def test_localhost_is_this_host_too(pair):
    async def story(site):
        host = f"localhost:{site.port}"
        assert (await ask(site, "/api/view", Host=host)).status == 200
        got = await ask(site, "/api/settle", {"id": "0000", "keep": "v1"}, Host=host, Origin=f"http://{host}")
        assert got.status == 404  # it was asked, and there is no such conflict

    served(pair["alice"].root, story)


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
     {"Origin": "http://localhost:{port}"}, {"Origin": "https://127.0.0.1:{port}"}, {"Origin": None},
     {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
     {"Content_Type": "text/plain"}, {"Content_Type": "application/x-www-form-urlencoded"}, {"Content_Type": None}],
)  # fmt: skip
def test_what_another_page_sends_changes_nothing_even_with_the_token(pair, headers):
    id = disagree(pair)

    async def story(site):
        said = {name: value and value.format(port=site.port) for name, value in headers.items()}
        got = await ask(site, "/api/settle", {"id": id, "keep": "v1"}, **said)
        assert got.status in (403, 415)

    served(pair["alice"].root, story)
    assert len(pair["alice"].documents.all_conflicts()) == 1


def test_another_origin_may_not_read_either(pair):
    async def story(site):
        for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "same-site"}):
            assert (await ask(site, "/api/view", **headers)).status == 403
        asked = await ask(site, "/api/view", method="OPTIONS", Origin="http://evil.example")
        assert asked.status in (403, 405)
        for got in (asked, await ask(site, "/api/view")):
            assert not [name for name in got.headers if name.startswith("access-control")]

    served(pair["alice"].root, story)


def test_every_answer_forbids_what_a_page_does_not_need(pair):
    async def story(site):
        for target in (f"/?token={site.token}", "/", "/api/view", "/nothing"):
            got = await ask(site, target)
            policy = got.headers["content-security-policy"]
            for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
                         "require-trusted-types-for 'script'"):  # fmt: skip
                assert part in policy
            assert "unsafe" not in policy and "*" not in policy and "http" not in policy
            assert got.headers["cache-control"] == "no-store"
            assert got.headers["x-frame-options"] == "DENY"
            assert got.headers["x-content-type-options"] == "nosniff"
            assert got.headers["referrer-policy"] == "no-referrer"
            assert "set-cookie" not in got.headers and "server" not in got.headers

    served(pair["alice"].root, story)


def test_the_page_is_one_file_that_names_no_other_host():
    text = web.PAGE.read_text("utf-8")
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:,)", text)
    assert "//" not in re.sub(r"^\s*//.*|  //.*", "", text, flags=re.M).replace("<!--", "")
    assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "document.write" not in text


def test_it_listens_on_loopback_alone(pair):
    async def story(site):
        (listening,) = site._server.sockets
        assert listening.family == socket.AF_INET and listening.getsockname() == ("127.0.0.1", site.port)

    served(pair["alice"].root, story)


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CannotListen, match="cannot listen"):
            asyncio.run(Site(Path("."), taken.getsockname()[1]).serve())


# --- what is no request of the page


@pytest.mark.parametrize(
    "target",
    ["/../etc/passwd", "/%2e%2e/", "/..%2f..%2fetc/passwd", "//api/view", "/api/view/", "/api//view", "/API/view",
     "/api/view%00", "/./api/view", "/.replica/identity", "/api/../api/view", "/api/view;x", "/api%2fview", "\\..\\",
     "http://evil.example/api/view",
     "*", "/favicon.ico", "/page.html", "/api"],
)  # fmt: skip
def test_no_trick_with_a_path_leads_anywhere(pair, target):
    async def story(site):
        assert (await ask(site, target)).status == 404

    served(pair["alice"].root, story)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", ".replica/identity", "/etc/passwd", "a-buffer.md\0", "A-BUFFER.md", ""]
)
def test_a_document_is_one_of_the_clone_and_no_file(pair, path):
    async def story(site):
        got = await ask(site, f"/api/document?path={quote(path)}")
        assert got.status == 404 and "no document" in got.json["error"]

    served(pair["alice"].root, story)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO"])
def test_what_is_asked_for_is_not_changed_and_the_other_way_round(pair, method):
    async def story(site):
        got = await ask(site, "/api/view", b"{}", method=method)
        assert got.status == 405 and got.headers["allow"] == "GET"
        if method != "POST":
            assert (await ask(site, "/api/settle", b"{}", method=method)).status == 405
        assert (await ask(site, "/api/settle")).headers["allow"] == "POST"

    served(pair["alice"].root, story)


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"GET /\r\n\r\n", 400), (b"GET / HTTP/2\r\n\r\n", 400), (b"get / HTTP/1.1\r\n\r\n", 400), (b"\r\n\r\n", 400),
     (b"GET  / HTTP/1.1\r\n\r\n", 400), (b"GET /\xff HTTP/1.1\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
     (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
     (b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", 400),
     (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\nHost: 127.0.0.1:2\r\n\r\n", 400),
     (b"GET / HTTP/1.1\r\nAuthorization: a\r\nauthorization: b\r\n\r\n", 400),
     (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 65 + b"\r\n", 431),
     (b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", 431),
     (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
     (b"POST /api/settle HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
     (b"POST /api/settle HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
     (b"POST /api/settle HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
     (b"POST /api/settle HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
     (b"POST /api/settle HTTP/1.1\r\nContent-Length: 16385\r\n\r\n", 413),
     (b"POST /api/settle HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n" + b"x" * 100_000, 413)],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_said_so(pair, raw, status):
    async def story(site):
        got = await send(site, raw)
        assert got.status == status and got.json["error"]

    served(pair["alice"].root, story)


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[]", b"null", b"{}", b'{"id": 1, "keep": "v1"}', b'{"id": "x", "keep": "v1", "more": ""}',
     b'{"id": ["x"], "keep": "v1"}', b"[" * 8_000, b'{"id": "\xff", "keep": "v1"}', b'{"id": "x"}'],
)  # fmt: skip
def test_a_body_that_is_not_what_it_should_be_is_refused(pair, body):
    async def story(site):
        assert (await ask(site, "/api/settle", body)).status == 400

    served(pair["alice"].root, story)


def test_who_says_nothing_or_half_of_it_is_hung_up_on_and_holds_up_nobody(pair, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT", 0.3)

    async def story(site):
        silent = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(20)]
        for at, (_, writer) in enumerate(silent):
            writer.write(
                request(site, "/api/view")[: at * 3] if at % 2 else b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"
            )
        assert (await ask(site, "/api/view")).status == 200
        for reader, writer in silent:
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
        assert not site._open

    served(pair["alice"].root, story)


def test_connections_are_counted(pair, monkeypatch):
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 5)

    async def story(site):
        silent = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(5)]
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, other in [*silent, (reader, writer)]:
            other.close()

    served(pair["alice"].root, story)


# --- what is answered


def test_the_view_holds_documents_conflicts_peers_and_who_changed_what(pair):
    id = disagree(pair)

    async def story(site):
        found = (await ask(site, "/api/view")).json
        documents = {row["path"]: row for row in found["documents"]}
        assert documents["a-buffer.md"]["entries"] == 1 and documents["a-buffer.md"]["by"] == "alice"
        assert documents["activeContext.md"]["conflict"] and not documents["a-buffer.md"]["conflict"]
        (conflict,) = found["conflicts"]
        assert conflict["id"] == id and {v["by"] for v in conflict["versions"]} == {"alice", "bob"}
        assert found["timeline"][0]["document"] == "activeContext.md"
        (peer,) = found["status"]["peers"]
        assert peer["name"] == "bob" and found["status"]["node"] == "stopped"

    served(pair["alice"].root, story)


def test_a_document_is_shown_as_it_is_with_who_wrote_each_entry(pair):
    alice, bob = pair["alice"], pair["bob"]
    add(bob, "a-buffer.md", "- two")
    alice.edit_text("notes/é.md", new="über 😀\n")
    add(alice, "mine.md", "- private", level=0)
    pair.sync_all()

    async def story(site):
        found = (await ask(site, "/api/document?path=a-buffer.md")).json
        assert {(block["text"], block["by"]) for block in found["blocks"]} == {("- one", "alice"), ("- two", "bob")}
        text = (await ask(site, "/api/document?path=notes/%C3%A9.md")).json
        assert text["blocks"] == [{"id": "", "role": "text", "text": "über 😀\n", "private": False}]
        assert text["timeline"][0]["by"] == "alice"
        mine = (await ask(site, "/api/document?path=mine.md")).json
        assert mine["blocks"][0]["private"] is True

    served(alice.root, story)


def test_search_finds_the_newest_first_and_says_how_many(pair, monkeypatch):
    monkeypatch.setattr(page, "MOST_HITS", 3)
    for at in range(5):
        pair.now += 1_000
        add(pair["alice"], "b-buffer.md", f"- needle {at} " + "x" * 1_000)

    async def story(site):
        found = (await ask(site, "/api/search?words=NEEDLE%20x")).json
        assert found["count"] == 5 and [hit["text"][:10] for hit in found["hits"]] == [
            "- needle 4",
            "- needle 3",
            "- needle 2",
        ]
        assert all(len(hit["text"]) <= page.SHOWN_HIT for hit in found["hits"])
        assert (await ask(site, "/api/search?words=")).json == {"hits": [], "count": 0}

    served(pair["alice"].root, story)


def test_the_list_of_documents_is_bounded_and_the_newest_are_in_it(pair, monkeypatch):
    monkeypatch.setattr(page, "MOST_DOCUMENTS", 3)
    for at in range(5):
        pair.now += 1_000
        pair["alice"].edit_text(f"n{at}.md", new="x")
    assert [row["path"] for row in page.documents(pair["alice"])] == ["n4.md", "n3.md", "n2.md"]


def test_a_deleted_document_is_not_listed(pair):
    alice = pair["alice"]
    alice.delete(alice.document("a-buffer.md"))
    assert "a-buffer.md" not in [row["path"] for row in page.documents(alice)]


def test_the_measures_are_those_of_stats(pair):
    async def story(site):
        assert (await ask(site, "/api/stats")).json["sync_success"] is None

    served(pair["alice"].root, story)


def test_a_fault_of_ours_is_said_and_ends_nothing(pair, monkeypatch):
    monkeypatch.setattr(page, "search", lambda clone, words: 1 / 0)

    async def story(site):
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        got = await ask(site, "/api/search?words=x")
        assert got.status == 500 and "ZeroDivisionError" in got.json["error"] and len(told) == 1
        assert (await ask(site, "/api/view")).status == 200

    served(pair["alice"].root, story)


# --- a click


def test_a_conflict_is_settled_for_all_and_written_to_the_file(pair):
    id = disagree(pair)
    alice, bob = pair["alice"], pair["bob"]
    version = next(v for v in alice.documents.all_conflicts()[0].versions if v.text == "as bob has it")

    async def story(site):
        assert (await ask(site, "/api/settle", {"id": id, "keep": version.version})).json == {"ok": True}
        again = await ask(site, "/api/settle", {"id": id, "keep": version.version})
        assert again.status == 404 and again.json["hint"]

    served(alice.root, story)
    assert (alice.root / "activeContext.md").read_text().strip() == "as bob has it"
    sync(alice, bob)
    assert bob.documents.all_conflicts() == [] and bob.text("activeContext.md").strip() == "as bob has it"


def test_a_conflict_is_settled_in_other_words(pair):
    id = disagree(pair)
    alice = pair["alice"]

    async def story(site):
        for wrong in (
            {"id": id},
            {"id": id, "text": " \n"},
            {"id": id, "text": 1},
            {"id": id, "text": "x", "keep": ""},
        ):
            assert (await ask(site, "/api/settle/text", wrong)).status == 400
        assert (await ask(site, "/api/settle/text", {"id": id, "text": "as both 🙂 have it"})).json == {"ok": True}
        assert (await ask(site, "/api/settle/text", {"id": id, "text": "again"})).status == 404

    served(alice.root, story)
    assert (alice.root / "activeContext.md").read_text().strip() == "as both 🙂 have it"
    assert alice.documents.all_conflicts() == []


def test_a_region_of_a_text_can_be_left_as_it_was_merged(pair):
    alice, bob = pair["alice"], pair["bob"]
    alice.edit_text("n.md", new="one line\n")
    pair.sync_all()
    alice.edit_text("n.md", new="one red line\n")
    bob.edit_text("n.md", new="one blue line\n")
    pair.sync_all()
    (conflict,) = page.conflicts(alice)
    assert conflict["versions"][0]["by"] is None
    merged = alice.text("n.md")
    assert page.settle(alice, conflict["id"], "merged") == "n.md"
    assert alice.text("n.md") == merged and page.conflicts(alice) == []


def held(pair, path="a-buffer.md") -> Clone:
    """A file of which the guard holds back that nearly all is gone."""
    alice = pair["alice"]
    add(alice, path, *(f"- entry {at}" for at in range(30)))
    pair.run("alice")
    (alice.root / path).write_text("- one is left\n")
    pair.run("alice")
    return alice


def test_a_held_file_is_accepted(pair):
    alice = held(pair)

    async def story(site):
        (row,) = (await ask(site, "/api/view")).json["status"]["held"]
        assert (await ask(site, "/api/accept", {"path": row["path"], "what": row["what"]})).status == 200
        assert (await ask(site, "/api/view")).json["status"]["held"] == []

    served(alice.root, story)
    assert alice.text("a-buffer.md") == "- one is left\n"


def test_a_held_file_is_restored_and_what_it_held_is_kept(pair):
    alice = held(pair)

    async def story(site):
        (row,) = (await ask(site, "/api/view")).json["status"]["held"]
        assert (await ask(site, "/api/reject", {"path": row["path"], "what": row["what"]})).status == 200

    served(alice.root, story)
    assert (alice.root / "a-buffer.md").read_text().count("- entry") == 30
    (kept,) = (alice.root / ".replica" / "rejected").iterdir()
    assert kept.read_text() == "- one is left\n"


def test_a_click_decides_what_was_shown_and_nothing_that_came_since(pair):
    alice = held(pair)
    (row,) = Bridge(alice, pair.clock).held()
    (alice.root / "a-buffer.md").write_text("")
    pair.run("alice")
    assert Bridge(alice, pair.clock).held()[0]["what"] != row["what"]
    with pytest.raises(NotFound, match="not held back for that any more"):
        page.release(alice, "a-buffer.md", row["what"], accept=True)
    assert alice.text("a-buffer.md").count("- entry") == 30


# --- live


def test_what_waits_is_answered_when_another_process_writes_and_not_before(pair):
    async def story(site):
        (await ask(site, "/api/view"))  # the first look may still bring something up to date
        moment = (await ask(site, "/api/view")).json["moment"]
        waiting = asyncio.ensure_future(ask(site, f"/api/wait?since={moment}"))
        done, _ = await asyncio.wait({waiting}, timeout=3 * web.LOOK)
        assert not done
        add(pair["alice"], "a-buffer.md", "- news")
        got = await asyncio.wait_for(waiting, 5)
        assert got.json["moment"] != moment
        assert "news" in (await ask(site, "/api/document?path=a-buffer.md")).body.decode()

    served(pair["alice"].root, story)


def test_an_answer_that_waits_for_too_long_says_that_nothing_has_happened(pair, monkeypatch):
    monkeypatch.setattr(web, "WAIT", 0.4)

    async def story(site):
        await ask(site, "/api/view")
        moment = (await ask(site, "/api/view")).json["moment"]
        assert (await ask(site, f"/api/wait?since={moment}")).json["moment"] == moment
        assert (await ask(site, "/api/wait?since=something")).json["moment"] == moment

    served(pair["alice"].root, story)


def test_nobody_waits_for_a_page_that_was_closed(pair):
    async def story(site):
        await ask(site, "/api/view")
        moment = (await ask(site, "/api/view")).json["moment"]
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(request(site, f"/api/wait?since={moment}"))
        await asyncio.sleep(0.3)
        assert len(site._open) == 1
        writer.close()
        for _ in range(50):
            await asyncio.sleep(0.05)
            if not site._open:
                return
        raise AssertionError("somebody still waits")

    served(pair["alice"].root, story)


def test_a_node_that_comes_is_news_and_is_poked_after_a_click(tmp_path):
    """With a running node of the clone, in this process: what is settled here reaches bob without another poll."""

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            sync(alice, bob)
            for clone in (alice, bob):
                clone.edit_entries("activeContext.md", "latest", [(1, entry(f"as {clone.name} has it"))])
            sync(alice, bob)
            site = Site(alice.root)
            await site.serve()
            before = (await ask(site, "/api/view")).json
            async with running(alice, serve=True, files=True) as a, running(bob, [("127.0.0.1", a.port)]):
                after = (await asyncio.wait_for(ask(site, f"/api/wait?since={before['moment']}"), 10)).json
                assert after["moment"] != before["moment"]
                view = (await ask(site, "/api/view")).json
                assert view["status"]["node"] == "running"
                (conflict,) = view["conflicts"]
                await ask(site, "/api/settle", {"id": conflict["id"], "keep": "v1"})
                for _ in range(100):
                    if not bob.documents.all_conflicts():
                        break
                    await asyncio.sleep(0.05)
                assert bob.documents.all_conflicts() == []
            await site.close()

    asyncio.run(story())


def test_the_watch_follows_a_store_that_is_another_file_now(pair):
    """As after a backup was put in its place, or while it is away."""
    alice = pair["alice"]
    watch, store = web.Watch(alice.root), alice.store.path
    first = watch.look()
    assert watch.look() == first
    alice.close()
    beside = store.with_name("beside.db")
    beside.write_bytes(store.read_bytes())
    os.replace(beside, store)
    second = watch.look()
    assert second > first and watch.look() == second
    with pair.open_again("alice") as again:
        add(again, "a-buffer.md", "- into the new file")
        third = watch.look()
        assert third > second
    store.rename(beside)
    fourth = watch.look()
    assert fourth > third and watch.look() == fourth
    watch.close()


def test_the_watch_sees_a_node_come_and_go_by_its_file(pair):
    root = pair["alice"].root
    watch = web.Watch(root)
    first = watch.look()
    control.publish(root, {"control": 1, "token": ""})
    second = watch.look()
    control.withdraw(root)
    assert first < second < watch.look()
    watch.close()


# --- the command


def command(root: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "REPLICA_INTERFACES": "127.0.0.1", "PYTHONPATH": str(HERE)}
    line = [sys.executable, "-m", "cli.main", "web", *arguments, "--dir", str(root)]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=HERE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [("--json",), ("--no-open",)])
def test_the_command_prints_its_address_and_a_signal_ends_it_cleanly(tmp_path, number, arguments):
    founder(tmp_path).close()
    with command(tmp_path / "alice", *arguments) as process:
        line = process.stdout.readline()
        event = json.loads(line) if "--json" in arguments else {"event": "listening", "url": line.strip()}
        assert event["event"] == "listening"
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{22,}", event["url"])
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in said


def test_a_browser_is_opened_by_a_file_of_ours_alone_and_not_by_the_address(tmp_path, monkeypatch):
    founder(tmp_path).close()
    site, opened = Site(tmp_path / "alice", 7), []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with cli_web._shown(tmp_path / "alice", site):
        (file,) = (tmp_path / "alice" / ".replica").glob("web-*.html")
        assert opened == [file.as_uri()] and site.token not in opened[0]
        assert site.url in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()


# --- the bytes


def test_an_answer_is_ascii_json_and_ends_the_connection():
    raw = http1.encode(http1.as_json({"x": "é\ud800"}), {"A": "b"})
    assert raw.isascii() and b"Connection: close\r\n" in raw and b"A: b\r\n" in raw
    assert int(re.search(rb"Content-Length: (\d+)", raw)[1]) == len(raw.partition(b"\r\n\r\n")[2])


def test_headers_are_read_by_their_names_in_any_case():
    found = http1.head(b"GET /a?b=c HTTP/1.1\r\nHOST:x\r\nx-y: \t z \r\n\r\n")
    assert found == http1.Request("GET", "/a", "b=c", {"host": "x", "x-y": "z"})


def test_at_the_usual_port_a_browser_names_none():
    def refused(host: str, port: int) -> bool:
        try:
            web.refuse_foreign(http1.Request("GET", "/api/view", "", {"host": host, "origin": f"http://{host}"}), port)
        except http1.Refused:
            return True
        return False

    assert not refused("127.0.0.1", 80) and not refused("localhost:80", 80)
    assert refused("127.0.0.1", 8080) and refused("evil.example", 80) and refused("localhost:8080", 80)
