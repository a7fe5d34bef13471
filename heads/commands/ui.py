"""`tfser ui`: the pages of `tfser.heads.reports.ui` on this machine alone, until Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import webbrowser
from pathlib import Path
from typing import Annotated

from tfser.manifests.cache import Cache
from tfser.manifests.commands.printing import InCache
from tfser.manifests.display import say, show
from tfser.manifests.errors import TfserError, UsageError
from tfser.manifests.options import Option

ADDRESS = "127.0.0.1"
"""Never another: whoever wants the page from elsewhere makes a tunnel, which asks who they are."""

_LEAVE_S = 2
"""How long requests may go on after Ctrl-C."""


def ui(
    *,
    port: Annotated[int, Option("Port of 127.0.0.1; one that is free if left out.", minimum=0, maximum=65535)] = 0,
    allow_audio: Annotated[
        tuple[str, ...],
        Option("Play sound from this folder, too, beside the corpora's own; repeat.", metavar="DIR", commas=False),
    ] = (),
    browser: Annotated[bool, Option("Open the page in a browser.")] = False,
    place: InCache,
) -> None:
    """Show the cache in a browser: listen to utterances, filter them by SQL, compare experiments, see audits and the report.

    It is read-only, is served to this machine alone, and to nobody who lacks the address that it prints. Ctrl-C ends it.

    Raises:
        UsageError: if there is no such cache or folder, the port is taken, or Starlette and uvicorn are not installed.

    Example:
        tfser ui
        tfser ui --port 8765 --browser
    """
    if lacking := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise UsageError(f"tfser ui needs {' and '.join(lacking)}: pip install 'tfser[ui]'")
    folders = tuple(Path(text).expanduser() for text in allow_audio)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"--allow-audio {folder}: there is no such folder")
    store = place.store.require()
    with contextlib.closing(_bound(port)) as listening:
        _serve(store, folders, listening, browser)
    say("stopped")


def _bound(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine alone; 0: on a free one.

    Raises:
        UsageError: if it cannot be had.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
    except OSError as error:
        listening.close()
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"--port {port}: cannot be had ({why}); leave it out for a free one") from error
    return listening


def _serve(store: Cache, folders: tuple[Path, ...], listening: socket.socket, browser: bool) -> None:
    """Serve the pages until Ctrl-C, and say where they are.

    Raises:
        TfserError: if the server could not begin.
    """
    import uvicorn

    from tfser.heads.reports.ui.app import build_app
    from tfser.heads.reports.ui.guard import new_token
    from tfser.heads.reports.ui.library import Library

    token = new_token()
    number = listening.getsockname()[1]
    address = f"http://{ADDRESS}:{number}/{token}/"
    settings = uvicorn.Config(
        build_app(Library(store, folders), token),
        log_level="critical",  # what goes wrong is said by the application, in one line
        access_log=False,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_LEAVE_S,
    )
    show(address)
    say(f"{store.root}: open this address in a browser (it holds the key to the page); Ctrl-C ends it. From another machine: "
        f"ssh -L {number}:{ADDRESS}:{number} HOST")  # fmt: skip
    if browser:
        webbrowser.open(address)
    server = uvicorn.Server(settings)
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once it has ended in good order
        server.run(sockets=[listening])
    if not server.started:
        raise TfserError(f"the page could not be served at {ADDRESS}:{number}")
