"""What every request passes first: Host, method, length; and the headers that every response gets.

A web page elsewhere can make a browser send requests to a server on the loopback. It cannot read the answers, unless it gets
a name of its own to point here (DNS rebinding): so the Host must be one of the names under which the viewer was opened.
"""

from __future__ import annotations

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


def names_of(host: str, port: int) -> frozenset[str]:
    """The values of Host under which a server bound to this loopback address is reached."""
    names = {"localhost", f"[{host}]" if ":" in host else host}
    with_port = {f"{name}:{port}" for name in names}
    return frozenset(with_port | names if port == 80 else with_port)


class Guard:
    """The application behind it sees only GET and HEAD requests for one of `names`."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in HEADERS]
                message = {**message, "headers": [*kept, *ours]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, with_headers)
            return
        status, text, more = refusal
        body = b"" if scope["method"] == "HEAD" else f"{text}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *more]
        await with_headers({"type": "http.response.start", "status": status, "headers": headers})
        await with_headers({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str, list[tuple[bytes, bytes]]] | None:
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._names:
            opened = " or ".join(f"http://{name}/" for name in sorted(self._names))
            return 421, f"This viewer answers only under {opened}", []
        if scope["method"] not in METHODS:
            return 405, "This viewer only shows: GET and HEAD.", [(b"allow", ", ".join(METHODS).encode())]
        said = {name: value for name, value in scope["headers"] if name.startswith(b"sec-fetch-")}
        if said.get(b"sec-fetch-site") == b"cross-site" and said.get(b"sec-fetch-mode") != b"navigate":
            # it could read no answer, but it could make work and measure it; a link from elsewhere may be followed
            return 403, "Pages of other sites cannot ask this viewer.", []
        if len(scope["query_string"]) > LONGEST_QUERY:
            return 414, "The address is too long.", []
        return None
