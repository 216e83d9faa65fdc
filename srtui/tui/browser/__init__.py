"""The dashboard in a browser: textual-serve's pipe between a websocket and a dashboard, behind a page of our own.

textual-serve's own page asks a server of fonts on the network, and its server asks nobody who he is. So of it are taken
the websocket and the terminal's script, and the rest is here: every address begins with a token, the server listens on
loopback alone, and the page's policy lets a browser ask for nothing elsewhere.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import shlex
import signal
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from srtui import process_id
from srtui.errors import UserError
from srtui.tui.processes import SERVER, command_line

if TYPE_CHECKING:
    from aiohttp import web

HOST = "127.0.0.1"
_PAGES = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    # xterm.js writes its sizes into style elements, so styles alone may be inline.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_REFUSED = (
    "This address lacks the token, or has another one: open the whole address that srtui serve printed.\n"
)
_MOST_CELLS = 2000  # in a row, and rows: a screen of a million lines would be drawn for ever
_NO_SIZE = f"width and height are numbers of cells from 1 to {_MOST_CELLS}.\n"


def _is_size(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 6 and 1 <= int(word) <= _MOST_CELLS


def new_token() -> str:
    """A token that nobody guesses: 256 bits."""
    return secrets.token_urlsafe(32)


def has_token(path: str, token: str) -> bool:
    """Whether a request's path begins with the token; how much of a wrong one is right does not show in the time."""
    given = path.removeprefix("/").partition("/")[0]
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def serve(port: int, token: str, announce: Callable[[str], None]) -> None:
    """Serve dashboards of this workspace until Ctrl-C; each page that is opened has one, which ends with it.

    Args:
        port: on loopback; 0 takes a free one.
        token: with which every address begins.
        announce: gets the address once it answers.

    Raises:
        UserError: where textual-serve is not installed, or the port is taken.
    """
    application = make_application(token)
    os.environ[SERVER] = process_id.token() or ""
    asyncio.run(_serve(application, port, lambda bound: announce(f"http://{HOST}:{bound}/{token}/")))


async def _serve(application: web.Application, port: int, announce: Callable[[int], None]) -> None:
    from aiohttp import web

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # No access log: it would write the token down.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
        except OSError as error:
            raise UserError(
                f"--port {port}: {error.strerror or error}; leave --port out for a free one."
            ) from error
        announce(int(runner.addresses[0][1]))
        await stop.wait()
    finally:
        await runner.cleanup()
        # One that was asked to end and has not. Engines that dashboards started are no children of this process.
        dashboards = psutil.Process().children()
        for dashboard in dashboards:
            dashboard.terminate()
        for dashboard in psutil.wait_procs(dashboards, 2)[1]:
            dashboard.kill()


def make_application(token: str) -> web.Application:
    """What answers. Raises UserError where textual-serve is not installed."""
    try:
        from aiohttp import web
        from textual_serve.server import Server
    except ImportError as error:
        raise UserError(
            f"srtui serve needs the extra serve ({error.name} is not installed): pip install 'srtui[serve]'."
        ) from error

    # Of this object the websocket's handler is used: it starts the command with Textual's driver for browsers.
    # It asks a shell to; without exec that would stay between a dashboard and this process.
    command = f"exec {shlex.join(command_line([]))}"
    dashboards: Any = Server(command, host=HOST, title="srtui")
    pages = {
        name: (files("srtui.tui.browser").joinpath(file).read_bytes(), content_type)
        for name, (file, content_type) in _PAGES.items()
    }

    @web.middleware
    async def guarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not has_token(request.path, token):
            return web.Response(status=403, text=_REFUSED, headers=_HEADERS)
        if not all(_is_size(request.query.get(name, "80")) for name in ("width", "height")):
            return web.Response(status=400, text=_NO_SIZE, headers=_HEADERS)
        return await handler(request)

    async def page(request: web.Request) -> web.Response:
        body, content_type = pages[request.match_info.get("page", "")]
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=_HEADERS)

    application = web.Application(middlewares=[guarded])
    application.add_routes(
        [
            web.get(f"/{token}/", page),
            web.get(f"/{token}/{{page:page\\.(?:css|js)}}", page),
            web.get(f"/{token}/ws", dashboards.handle_websocket),
            web.static(f"/{token}/static", Path(dashboards.statics_path)),
        ]
    )
    return application
