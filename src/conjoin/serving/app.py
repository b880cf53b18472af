"""The ASGI application: routes, health, what the server tells of itself, the page."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from conjoin.errors import ConjoinError
from conjoin.generation.settings import DEFAULTS, SETTINGS
from conjoin.serving.answering import Answering
from conjoin.serving.dialects.answers import errors
from conjoin.serving.dialects.parameters import SETTABLE
from conjoin.serving.edge import Edge, Keys, route_path
from conjoin.serving.metrics import Metrics
from conjoin.serving.models import Models
from conjoin.serving.page import page_routes
from conjoin.serving.reading import as_refusal, unexpected_error
from conjoin.serving.refusal import Kind, Refusal
from conjoin.serving.refusals import of_validation, refusal_response
from conjoin.serving.routes import generate_routes, openai_routes, translate_routes
from conjoin.serving.settings import ServeSettings

log = logging.getLogger("conjoin.serve")


class Application:
    """A server's application, to be run by uvicorn or mounted elsewhere.

    Example:
        app = Application(ServeSettings(models=("out/my-model",)))

    Args:
        settings: Of the server; their checks are those of `ServeSettings.of`.

    Attributes:
        models: The models, loaded in the background once the application runs.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.models = Models(settings)
        self.metrics = Metrics(self.models)
        keys = Keys(settings.keys)
        self.inner = _inner(self, keys)
        self._outer: Any = Edge(
            self.inner,
            keys=keys,
            max_body=settings.max_body,
            body_seconds=settings.client_timeout,
            root_path=settings.root_path,
            refuse=self._refuse,
            seen=self._seen,
        )
        if settings.cors:  # outermost, so that pages can read the refusals too
            self._outer = CORSMiddleware(
                self._outer,
                allow_origins=settings.cors,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # clients send headers of their own, such as x-stainless-lang
                expose_headers=["x-request-id", "retry-after"],
            )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one connection: the ASGI interface."""
        await self._outer(scope, receive, send)

    def _refuse(self, path: str, refusal: Refusal) -> Response:
        self.metrics.count("refused", "edge", refusal.kind.label)
        return refusal_response(path, refusal)

    def _seen(self, route: str, status: int) -> None:
        self.metrics.count("http_requests", route, str(status))


def _inner(application: Application, keys: Keys) -> FastAPI:
    settings, models, metrics = application.settings, application.models, application.metrics

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        tasks = [asyncio.create_task(models.load_all()), asyncio.create_task(models.unload_idle())]
        try:
            yield
        finally:
            await models.stop()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    app = FastAPI(
        title="conjoin",
        version=version("conjoin"),
        description="Encoder-decoder models behind OpenAI's, TGI's, Hugging Face's and LibreTranslate's words.",
        lifespan=lifespan,
        root_path=settings.root_path,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    answering = Answering(models, metrics)
    app.include_router(openai_routes(answering, settings))
    app.include_router(generate_routes(answering))
    if settings.pairs:
        app.include_router(translate_routes(answering, settings, keys))
    app.include_router(_server_routes(application))
    _add_refusals(app, metrics)
    if settings.page:
        app.include_router(page_routes())
    return app


def _server_routes(application: Application) -> APIRouter:
    settings, models = application.settings, application.models
    router = APIRouter(tags=["Server"], responses=errors("generate"))

    @router.head("/health", include_in_schema=False)
    @router.head("/ping", include_in_schema=False)
    @router.get("/health", response_model=dict[str, str])
    @router.get("/ping", response_model=dict[str, str])
    async def health() -> Any:
        """Tell that the process is alive."""
        return {"status": "ok"}

    @router.get("/models/{name:path}/health", response_model=dict[str, str])
    async def health_of(name: str) -> Any:
        """Tell that a model takes requests: where Hugging Face's clients look."""
        entry = models.named(name)
        if models.is_draining or entry.state not in ("ready", "unloaded"):
            raise Refusal(Kind.UNAVAILABLE, f"{name} takes no requests now.", retry_after_s=5)
        return {"status": "ok"}

    @router.get("/models/{name:path}/info", response_model=dict[str, Any])
    async def info_of(name: str) -> Any:
        """Describe the server as GET /info does, with this model as `model_id`."""
        return {**await info(), "model_id": models.named(name).name}

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready", response_model=dict[str, Any])
    async def ready() -> Response:
        """Tell whether requests are taken: 200, or 503 while models are loaded or the server stops."""
        states = {name: entry.state for name, entry in models.entries.items()}
        told = {"status": "ready" if models.is_ready else "draining" if models.is_draining else "loading"}
        if models.is_ready:
            return JSONResponse({**told, "models": states})
        body = {"error": told["status"], "error_type": "overloaded", "models": states}
        return JSONResponse(body, 503, headers={"retry-after": "5"})

    @router.get("/info", response_model=dict[str, Any])
    async def info() -> Any:
        """Describe the server: models, limits, the settings that a request may have and their ranges."""
        return {
            "version": version("conjoin"),
            "model_id": next(iter(models.entries)),
            "models": [_about(entry) for entry in models.entries.values()],
            "limits": {
                "max_inputs": settings.max_inputs,
                "max_beams": settings.max_beams,
                "max_results": settings.max_results,
                "max_new_tokens": settings.max_new_tokens,
                "max_source_tokens": settings.max_source_tokens,
                "max_body_bytes": settings.max_body,
                "timeout_s": settings.timeout,
            },
            "max_concurrent_requests": settings.max_queue,
            "max_client_batch_size": settings.max_inputs,
            "translate": [[*pair, name] for pair, name in settings.pairs.items()],
            "settings": {name: _range_of(name) for name in SETTABLE},
        }

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return numbers for Prometheus."""
        return PlainTextResponse(application.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/version", response_model=dict[str, str])
    async def told_version() -> Any:
        """Return the version of conjoin."""
        return {"version": version("conjoin")}

    @router.post("/admin/reload", response_model=dict[str, list[str]])
    async def reload(http: Request, model: str | None = None) -> Any:
        """Load the files of a model, or of all, anew; the old one serves until the new one is ready."""
        if not Keys(settings.keys).are_needed and not settings.is_private:
            raise Refusal(Kind.UNAUTHORIZED, "Models are reloaded only with a key.")
        return {"reloaded": await models.reload(model)}

    return router


def _range_of(name: str) -> dict[str, Any]:
    expected, told = SETTINGS[name].range, {"default": DEFAULTS.get(name)}
    if expected is None:
        return {"range": None, "kind": "other", **told}
    told |= {bound: getattr(expected, bound) for bound in ("least", "most") if getattr(expected, bound) is not None}
    if expected.kind == "choice":
        told["options"] = list(expected.options)
    return {"range": expected.description, "kind": expected.kind, **told}


def _about(entry: Any) -> dict[str, Any]:
    told = {"id": entry.name, "state": entry.state}
    return {**told, **entry.served.card()} if entry.served is not None else {**told, "error": entry.error}


def _add_refusals(app: FastAPI, metrics: Metrics) -> None:
    def respond(http: Request, refusal: Refusal) -> Response:
        route = getattr(http.scope.get("route"), "path", "other")
        metrics.count("refused", route, refusal.kind.label)
        return refusal_response(route_path(http.scope), refusal)

    @app.exception_handler(Refusal)
    async def refused(http: Request, refusal: Refusal) -> Response:  # pyright: ignore[reportUnusedFunction]
        return respond(http, refusal)

    @app.exception_handler(Exception)
    async def unexpected(http: Request, error: Exception) -> Response:  # pyright: ignore[reportUnusedFunction]
        known = isinstance(error, ConjoinError)  # any other error is logged by the edge
        return respond(http, as_refusal(error) if known else unexpected_error(error))

    @app.exception_handler(RequestValidationError)
    async def not_valid(http: Request, error: RequestValidationError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return respond(http, of_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(http: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        response = respond(http, Refusal(Kind.of_status(error.status_code), f"{error.detail}"))
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        return response
