"""The page at /: files served as they are, without a build step, and without scripts or styles from elsewhere.

`main.js` says what each part of the page tells the others; read it first.
"""

import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline; and no script can turn a text into elements: `innerHTML = ...` raises."""
_SCRIPTS = (
    "alternatives", "answer", "api", "attention", "bulk", "chunks", "clipboard", "code", "codeview", "colours",
    "diff", "dom", "events", "fields", "fileform", "files", "hash", "keyboard", "main", "map", "models", "nbest",
    "presets", "request", "run", "settings", "source", "status", "store", "tables", "target", "theme", "words", "work",
)  # fmt: skip
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {
    "/": "index.html",
    "/favicon.svg": "favicon.svg",
    "/page/page.css": "page.css",
    "/page/parts.css": "parts.css",
    **{f"/page/{name}.js": f"{name}.js" for name in _SCRIPTS},
}
"""Path -> file of this folder."""
PATHS = tuple(_FILES)
"""Paths of the page, which need no key."""


def page_routes() -> APIRouter:
    """Return the routes of the page's files."""
    router = APIRouter(include_in_schema=False)
    for path, name in _FILES.items():
        router.add_api_route(path, _file(name), methods=["GET", "HEAD"], response_class=Response)
    return router


def _file(name: str):
    content = (files("conjoin.serving.page") / name).read_bytes()
    media = _KINDS[name[name.rindex(".") :]]
    tag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
    headers |= {"cache-control": "no-cache", "etag": tag}  # ask again each time, fetch only what has changed

    async def respond(http: Request) -> Response:
        if http.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media, headers=headers)

    return respond
