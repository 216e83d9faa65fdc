"""The dashboard in a browser: who has the address gets a dashboard, nobody else gets anything, and nothing is fetched
from elsewhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from srtui import process_id
from srtui.tui.app import Dashboard
from srtui.tui.browser import has_token, new_token
from srtui.tui.processes import SERVER
from srtui.workspace import Workspace
from tests.conftest import ROOT, make_workspace
from tests.tui.driving import settled
from tests.tui.scripted_store import make_demo_store

PAGES = ROOT / "srtui" / "tui" / "browser"


def test_a_token_is_the_whole_of_the_first_part() -> None:
    token = new_token()
    assert len(token) > 40 and token != new_token()
    for path in (f"/{token}/", f"/{token}/ws", f"/{token}"):
        assert has_token(path, token)
    for path in (
        "",
        "/",
        "/ws",
        f"/{token[:-1]}/",
        f"/{token}x/",
        f"//{token}/",
        f"/x/{token}/",
        "/é\udcff/",
    ):
        assert not has_token(path, token)


def test_the_page_asks_for_nothing_elsewhere() -> None:
    for file in PAGES.iterdir():
        if file.suffix in (".html", ".css", ".js"):
            assert not re.findall(r"https?:|//\w|url\(\"?/", file.read_text(encoding="utf-8")), file


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a workspace's dashboards, and their server."""
    pytest.importorskip("textual_serve")
    workspace: Workspace = make_workspace(tmp_path / "ws")
    make_demo_store(workspace)
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "srtui", "serve"],
        cwd=workspace.root,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        said = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/\S+/", said)
        assert address, said
        yield address[0], psutil.Process(server.pid)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


def test_who_has_the_address_has_a_dashboard(served: tuple[str, psutil.Process]) -> None:
    asyncio.run(_visit(*served))


async def _visit(address: str, server: psutil.Process) -> None:
    import aiohttp

    origin = address.rpartition("/")[0].rpartition("/")[0]
    listening = [c.laddr.ip for c in server.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    async with aiohttp.ClientSession() as browser:
        for path in (
            "/",
            "/ws",
            "/static/js/textual.js",
            "/wrong/",
            "/wrong/ws",
            f"{address[len(origin) : -2]}/",
        ):
            async with browser.get(origin + path) as answer:
                assert answer.status == 403, path
                assert "srtui serve" in await answer.text()
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await browser.ws_connect(f"{origin}/wrong/ws")

        async with browser.get(address) as answer:
            page = await answer.text()
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        for part in re.findall(r'(?:src|href)="([^"]+)"', page):
            async with browser.get(address + part) as answer:
                assert answer.status == 200, part
        async with browser.get(f"{address}static/") as answer:
            assert answer.status == 403, "no list of files"

        for size in ("width=-5", "height=999999999", "height=x"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
                await browser.ws_connect(f"{address}ws?{size}")

        async with browser.ws_connect(f"{address}ws?width=100&height=30") as dashboard:
            assert "quickstart" in await _until(dashboard, "1 Runs", "quickstart")
            dashboards = server.children(recursive=True)
            assert dashboards
            await dashboard.send_json(["stdin", "4"])
            await _until(dashboard, "r-IFD")
    gone, alive = psutil.wait_procs(dashboards, 20)
    assert gone and not alive, "a dashboard outlives its page"


async def _until(dashboard: object, *words: str) -> str:
    """What the dashboard draws, up to all of the words."""
    drawn = ""
    while not all(word in drawn for word in words):
        message = await dashboard.receive(30)  # type: ignore[attr-defined]
        assert isinstance(message.data, bytes), message
        drawn += re.sub(r"\x1b\[[0-9;?<]*[A-Za-z]", "", message.data.decode("utf-8", "replace"))
    return drawn


async def test_a_dashboard_ends_where_its_server_was_killed(
    demo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.setenv(SERVER, process_id.token(server.pid) or "")
    async with Dashboard(demo).run_test() as pilot:
        await settled(pilot)
        is_open = pilot.app.return_code is None
        assert is_open
        server.kill()
        server.wait()
        for _ in range(400):
            if pilot.app.return_code is not None:
                break
            await pilot.pause(0.05)
        assert pilot.app.return_code == 0


CHROMIUM = os.environ.get("SRTUI_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; SRTUI_CHROMIUM names one")
def test_a_real_browser_shows_it_takes_a_key_and_asks_nobody_else(
    served: tuple[str, psutil.Process], tmp_path: Path
) -> None:
    words = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--use-angle=swiftshader",
    ]
    words += ["--enable-unsafe-swiftshader", "--remote-debugging-port=0", "--window-size=1200,720"]
    browser = subprocess.Popen(
        [*words, f"--user-data-dir={tmp_path / 'profile'}", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert browser.stderr is not None
        port = next(found[1] for row in browser.stderr if (found := re.search(r"ws://127.0.0.1:(\d+)/", row)))
        asyncio.run(_look(served[0], int(port)))
    finally:
        browser.terminate()
        browser.wait(20)


async def _look(address: str, port: int) -> None:
    """By the browser's own protocol: what it asks for, what it draws, what goes wrong in it."""
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            page = next(tab for tab in await answer.json() if tab["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as tab:
            asked, drawn, wrong = [], b"", []

            async def tell(method: str, **params: object) -> None:
                await tab.send_json({"id": 1, "method": method, "params": params})

            async def until(*texts: bytes) -> None:
                nonlocal drawn
                while not all(text in drawn for text in texts):
                    said = json.loads((await tab.receive(60)).data)
                    params, method = said.get("params", {}), said.get("method", "")
                    if method == "Network.requestWillBeSent":
                        asked.append(params["request"]["url"])
                    elif method == "Network.webSocketCreated":
                        asked.append(params["url"])
                    elif method == "Network.webSocketFrameReceived" and params["response"]["opcode"] == 2:
                        drawn += base64.b64decode(params["response"]["payloadData"])
                    elif method in ("Runtime.exceptionThrown", "Log.entryAdded"):
                        wrong.append(params)

            for domain in ("Network", "Log", "Runtime", "Page"):
                await tell(f"{domain}.enable")
            await tell("Page.navigate", url=address)
            await until(b"quickstart")
            drawn = b""
            await tell("Input.dispatchKeyEvent", type="keyDown", key="4", text="4", code="Digit4")
            await until(b"r-IFD")
    assert wrong == []
    place = address.removeprefix("http")
    assert all(url.startswith((f"http{place}", f"ws{place}")) for url in asked) and len(asked) >= 6


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.attack.ground import in_process

    monkeypatch.setitem(sys.modules, "textual_serve", None)
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    workspace = make_workspace(tmp_path / "ws")
    done = in_process(("serve",), workspace.root, {"SRTUI_WORKSPACE": str(workspace.root)})
    assert done.code == 2 and "srtui[serve]" in done.err
