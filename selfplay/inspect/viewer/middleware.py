"""Checks that every request passes first (Host, method, length), and the headers of every response.

A web page elsewhere can make a browser send requests to a server on the loopback. It cannot read the responses, unless it
points a name of its own to the loopback (DNS rebinding). So the Host must be a name of the loopback.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")
LONGEST_QUERY = 8192

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "private, no-cache",
}


def guarded(app: ASGIApp, host: str) -> ASGIApp:
    """The application behind the checks, for a server bound to this loopback address."""
    return Guard(TrustedHostMiddleware(app, ["localhost", f"[{host}]" if ":" in host else host], www_redirect=False))


class Guard:
    """Adds HEADERS to every response. Refuses methods other than GET and HEAD, requests of other sites, and long addresses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (_refusal(scope) or self._app)(scope, receive, with_headers)


def _refusal(scope: Scope) -> ASGIApp | None:
    if scope["method"] not in METHODS:
        return PlainTextResponse("This viewer only reads: GET and HEAD.\n", 405, {"allow": ", ".join(METHODS)})
    headers = Headers(scope=scope)
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        # The other site could not read the response, but it could cause work and measure it. A link may be followed.
        return PlainTextResponse("Pages of other sites cannot query this viewer.\n", 403)
    if len(scope["query_string"]) > LONGEST_QUERY:
        return PlainTextResponse("The address is too long.\n", 414)
    return None
