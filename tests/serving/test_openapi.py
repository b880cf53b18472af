"""The OpenAPI document says what the server does: every route, every status, every form of an answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from command_line import folder_fixture  # noqa: F401  (fixture)
from conjoin.serving import Application, ServeSettings
from servers import Server, start_server

OPERATIONS = [
    "GET /frontend/settings",
    "GET /health",
    "GET /info",
    "GET /languages",
    "GET /metrics",
    "GET /models/{name}/health",
    "GET /models/{name}/info",
    "GET /ping",
    "GET /ready",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /version",
    "POST /",
    "POST /admin/reload",
    "POST /detect",
    "POST /generate",
    "POST /generate_stream",
    "POST /models/{name}",
    "POST /models/{name}/v1/chat/completions",
    "POST /translate",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
]
CHECKS = (
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.unsupported_method,
)
BUSY = (503, 504)


@pytest.fixture(name="server", scope="module")
def server_fixture(folder: Path) -> Iterator[Server]:
    limits = ("--max-new-tokens", "8", "--timeout", "10", "--max-rows", "8")
    with start_server(f"{folder}=tiny", "--translate", "en:de", *limits) as server:
        yield server


@pytest.fixture(name="app", scope="module")
def app_fixture() -> Any:
    return Application(ServeSettings(models=("nothing=tiny",), translate=("en:de",))).inner


def api_routes(router: Any) -> Iterator[APIRoute]:
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):  # FastAPI keeps routers as they were included
            yield from api_routes(route.original_router)


def operations(document: dict[str, Any]) -> list[str]:
    return sorted(f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods)


def test_the_document_has_every_route_but_those_of_the_page(app: Any) -> None:
    assert operations(app.openapi()) == OPERATIONS
    hidden = {route.path for route in api_routes(app) if not route.include_in_schema}
    assert "/favicon.svg" in hidden
    probes = {"/health", "/ping", "/ready"}
    assert all(path in probes or path.startswith("/page/") or path in ("/", "/favicon.svg") for path in hidden)


def test_every_operation_tells_its_errors_and_what_it_does(app: Any) -> None:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            assert operation["description"].strip(), (method, path)
            assert {"200", "400", "401", "408", "413", "429", "500", "503", "504"} <= set(operation["responses"])


def test_the_document_is_valid_openapi(app: Any, server: Server) -> None:
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.validate()
    assert operations(json.loads(server.get("/openapi.json"))) == OPERATIONS


def attack(url: str, operation: str, examples: int) -> None:
    """Send requests that the document allows and such that it does not; check the answers against the document."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    method, path = operation.split(" ")
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:

        @seed(1729)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=schema[path][method].as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            response = case.call(base_url=url, timeout=60)
            if response.status_code not in BUSY:
                case.validate_response(response, checks=[checks.not_a_server_error, *CHECKS])

        try:
            send()
        except Unsatisfiable:  # nothing is wrong that can be said to an operation without parameters
            assert mode is schemathesis.GenerationMode.NEGATIVE


ATTACKED = [operation for operation in OPERATIONS if operation != "POST /admin/reload"]  # it loads the model anew


@pytest.mark.parametrize("operation", ATTACKED)
def test_answers_are_those_of_the_document(server: Server, operation: str) -> None:
    attack(server.url, operation, 6)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ATTACKED)
def test_answers_to_many_requests_are_those_of_the_document(server: Server, operation: str) -> None:
    attack(server.url, operation, 150)
    assert httpx.get(f"{server.url}/ready").status_code == 200
