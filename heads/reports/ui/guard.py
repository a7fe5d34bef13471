"""Who is let in, and what every answer says to the browser: the door of `tfser ui`.

In goes an ASGI application; out comes one that answers reading requests whose path begins with the token, which is in the
address that `tfser ui` prints and nowhere else. Whoever lacks it gets 403 and learns nothing, not even whether a page exists.
That a page of another site does not reach it under a name of its own (DNS rebinding) is held by Starlette's check of the Host
header, which stands around this (`tfser.heads.reports.ui.app`). Nothing is read or written here.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost")
"""The names under which the page may be asked for, at any port: a tunnel may have another one."""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""What a page may load: its own style, pictures that are part of it, sound from here. No script at all."""

_HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Of every answer; the address, and the token with it, is told to nobody."""


def new_token() -> str:
    """Return a token that nobody guesses, of letters that stand in an address as they are."""
    return secrets.token_urlsafe(24)


class Guard:
    """Lets requests in that read and bear the token."""

    def __init__(self, inner: Application, token: str) -> None:
        self._inner, self._token = inner, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("only HTTP is spoken here")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}
                more = [(name.encode(), text.encode()) for name, text in _HEADERS.items() if name.encode() not in given]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        first = str(scope["path"]).lstrip("/").partition("/")[0]
        # In constant time, so that no letter of the token can be had by timing answers.
        if not hmac.compare_digest(first.encode("utf-8", "surrogateescape"), self._token):
            await _refuse(guarded, 403, "403: this address lacks the token; open the one that `tfser ui` printed\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _refuse(guarded, 405, "405: these pages are read-only\n")
        else:
            await self._inner({**scope, "root_path": f"{scope.get('root_path', '')}/{first}"}, receive, guarded)


async def _refuse(send: Send, status: int, text: str) -> None:
    content = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(content)).encode())]
    headers += [(b"allow", b"GET, HEAD")] if status == 405 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
