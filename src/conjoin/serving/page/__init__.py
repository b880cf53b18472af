"""The page at /: three files, served as they are, without scripts or styles from elsewhere."""

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}


def page_routes() -> APIRouter:
    """Return the routes of the page's files."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media) in _FILES.items():
        router.add_api_route(path, _file(name, media), methods=["GET", "HEAD"], response_class=Response)
    return router


def _file(name: str, media: str):
    content = (files("conjoin.serving.page") / name).read_bytes()
    headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}

    async def respond() -> Response:
        return Response(content, media_type=media, headers=headers)

    return respond
