"""Requests of somebody who wants to break the server: none of them may end in a 500, in the log or in the metrics."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from command_line import folder_fixture  # noqa: F401  (fixture)
from conjoin.serving import Application, ServeSettings, edge
from servers import Server, start_server

BIG = 10**30
TEXTS = {
    "NUL": "a\x00b",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\u2029",
    "combining": "e" + "\u0301" * 2000,
    "right to left": "\u202eabc\u202c \u0627\u0644",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 50,
    "unassigned": "\uffff\ufffe\U0010ffff\ue000",
    "spaces": " \t\n\u00a0\u3000" * 40,
    "one word": "x" * 15000,
    "special tokens": "[CLS] [SEP] <|endoftext|> [PAD] [MASK]",
}
PARAMETERS: list[dict[str, Any]] = [
    *(
        {name: BIG}
        for name in ("num_beams", "top_k", "max_new_tokens", "seed", "no_repeat_ngram_size", "num_beam_groups")
    ),
    *(
        {name: -1}
        for name in ("num_beams", "top_k", "max_new_tokens", "seed", "min_new_tokens", "num_return_sequences")
    ),
    *({name: 0} for name in ("num_beams", "top_k", "max_new_tokens", "temperature", "repetition_penalty", "top_p")),
    *({name: 1e308} for name in ("temperature", "length_penalty", "repetition_penalty", "diversity_penalty", "top_p")),
    *({name: 5e-324} for name in ("temperature", "repetition_penalty", "top_p", "typical_p", "epsilon_cutoff")),
    *({name: BIG} for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")),
    *({name: -5} for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")),
    *({"bad_words_ids": ids} for ids in ([], [[]], [[-1]], [[BIG]], [[10**6]], [[5]] * 3000)),
    *(
        {"suppress_tokens": ids}
        for ids in ([], [-1], [BIG], list(range(480)), list(range(1, 480)), list(range(5, 480)))
    ),
    *({"force_words_ids": ids} for ids in ([], [[]], [[-1]], [[BIG]])),
    *({"sequence_bias": bias} for bias in ([], [[]], [["a", "b"]], [[[5], 1e308]], [[[BIG], 1.0]], [[[5], {}]])),
    *({"exponential_decay_length_penalty": pair} for pair in ([], [1.0], [1.0, 1e308], [1.0, 2.0, 3.0])),
    *({"watermarking_config": config} for config in ({}, {"a": 1}, {"hashing_key": "x"}, {"bias": 1e308})),
    {"seed": 2**63},
    {"seed": -(2**63)},
    {"seed": 2**64 - 1, "do_sample": True},
    {"do_sample": True, "temperature": 5e-324, "top_k": 1},
    {"num_beams": 8, "num_return_sequences": 8, "suppress_tokens": list(range(6, 480)), "details": True},
    {"target_prefix": [BIG]},
    {"target_prefix": [-1]},
    {"target_prefix": [5] * 63},
    {"target_prefix": [5] * 5000},
    {"target_prefix": "a " * 5000},
    {"attention": {"layer": -1, "head": BIG}},
    {"stop": [""]},
    {"stop": ["\x00", "a" * 5000]},
    {"truncate": BIG},
    {"timeout": 5e-324},
    {"generate_parameters": {"num_beams": 1e9}},
    {"generate_parameters": {"max_new_tokens": "7"}},
    {"generate_parameters": {"output_scores": True}},
    {"prompt_lookup_num_tokens": BIG},
    {"prompt_lookup_num_tokens": 10**6},
    {"num_assistant_tokens": BIG},
    {"penalty_alpha": 0.6, "top_k": BIG},
]


@pytest.fixture(name="server", scope="module")
def server_fixture(folder: Path) -> Iterator[Server]:
    with start_server(f"{folder}=tiny", "--translate", "en:de", "--max-rows", "8") as server:
        yield server


@pytest.fixture(name="http", scope="module")
def http_fixture(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def check(answer: httpx.Response) -> None:
    assert answer.status_code < 500 or answer.status_code in (503, 504), answer.text
    json.loads(answer.text, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_answered_or_refused(http: httpx.Client, text: str) -> None:
    for path, body in (
        ("/generate", {"inputs": text, "parameters": {"attention": True, "details": True, "top_n_tokens": 3}}),
        ("/generate", {"inputs": "a", "parameters": {"target_prefix": text[:30], "stop": [text[-9:]]}}),
        ("/v1/completions", {"prompt": text, "logprobs": 2, "stop": text[:5]}),
        ("/translate", {"q": [text, ""], "source": "en", "target": "de"}),
    ):
        check(http.post(path, json=body))


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda value: str(value)[:60])
def test_any_parameters_are_answered_or_refused(http: httpx.Client, server: Server, parameters: Any) -> None:
    check(http.post("/generate", json={"inputs": "a b", "parameters": parameters}))
    streamed = http.post("/generate_stream", json={"inputs": "a b", "parameters": parameters})
    for line in streamed.text.splitlines():
        if line.startswith("data:"):
            told = json.loads(line[5:], parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
            assert "unexpected" not in str(told.get("error")), told
    assert "unexpected" not in server.log


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt": "a", "n": 1e999}',
        '{"prompt": "a", "length_penalty": 1e999}',
        '{"prompt": "a", "length_penalty": NaN}',
        '{"prompt": "a", "seed": ' + "9" * 5000 + "}",
        '{"prompt": "a", "n": ' + str(BIG) + "}",
        '{"prompt": "a", "prompt": "b", "prompt": ""}',
        '{"prompt": [1, "a", [2]]}',
        '{"prompt": [true]}',
        '{"prompt": [[], [1]]}',
        '{"prompt": [' + ",".join(["[5]"] * 20000) + "]}",
        '{"prompt": ' + "[" * 900 + "]" * 900 + "}",
        '{"model": {"a": 1}, "prompt": "a"}',
        '{"model": "a\\u0000\\nINFO forged=1", "prompt": "a"}',
        '{"prompt": "a", "metadata": ' + '{"a":' * 400 + "1" + "}" * 401,
        '{"prompt": "a", "stop": ' + json.dumps(["x"] * 1000) + "}",
        '{"prompt": "a", "priority": "highest"}',
    ],
    ids=lambda body: body[:50],
)
def test_odd_json_is_answered_or_refused(http: httpx.Client, server: Server, body: str) -> None:
    for path in ("/v1/completions", "/generate", "/translate"):
        check(http.post(path, content=body, headers={"content-type": "application/json"}))
    assert "forged" not in server.log and "unexpected" not in server.log


@pytest.mark.parametrize(
    "media", ["", "text/plain", "application/xml", "multipart/form-data; boundary=x", "a/b;c=\x7f"]
)
def test_other_media_are_refused(http: httpx.Client, media: str) -> None:
    for path in ("/generate", "/v1/chat/completions", "/translate", "/detect", "/"):
        answer = http.post(path, content=b"--x\r\n\r\nq=a", headers={"content-type": media} if media else {})
        assert 400 <= answer.status_code < 500, (path, answer.text)


def test_many_small_requests_at_once(http: httpx.Client, server: Server) -> None:
    def ask(number: int) -> int:
        kind = number % 5
        if kind == 0:
            return http.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 1}}).status_code
        if kind == 1:
            return http.post("/generate", content=b"{").status_code
        return http.get(("/health", "/metrics", "/nowhere")[kind - 2]).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(600))) <= {200, 404, 422, 429}
    assert server.metric("conjoin_rows") == 0


def test_urgent_requests_of_one_client_do_not_starve_the_others(http: httpx.Client) -> None:
    stopped = threading.Event()
    long = {"max_new_tokens": 40, "min_new_tokens": 40, "num_beams": 4, "priority": "interactive"}

    def flood() -> None:
        while not stopped.is_set():
            http.post("/generate", json={"inputs": ["a b"] * 4, "parameters": long})

    threads = [threading.Thread(target=flood) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        bulk = http.post("/generate", json={"inputs": "a", "parameters": {"priority": "bulk", "max_new_tokens": 3}})
        assert bulk.status_code == 200
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def test_the_log_cannot_be_forged(http: httpx.Client, server: Server) -> None:
    for number, value in enumerate((b"a b=c", b"x\xc2\x85INFO forged", b"\xe9\xe9", b"x" * 5000)):
        headers: Any = [(b"x-request-id", value), (b"traceparent", b"00-a forged=1"), (b"user-agent", b"forged")]
        answer = http.post("/generate", json={"inputs": "a", "model": f"forged\n{number}"}, headers=headers)
        assert answer.status_code == 404 and len(answer.headers["x-request-id"]) == 32
    assert "forged" not in server.log


def test_metrics_do_not_grow_with_what_clients_invent(http: httpx.Client) -> None:
    def invent(number: int) -> None:
        http.get(f"/no/such/{number}")
        http.get(f"/v1/models/none-{number}")
        http.post(f"/models/none-{number}", json={"inputs": "a"})
        http.post("/generate", json={"inputs": "a", "model": f"none-{number}"})
        http.request(f"INVENTED{number}", "/generate")

    invent(0)
    before = len(http.get("/metrics").text.splitlines())
    for number in range(1, 40):
        invent(number)
    assert len(http.get("/metrics").text.splitlines()) <= before + 2
    assert "none-" not in http.get("/metrics").text


def test_too_many_open_requests_are_told_to_come_back_and_probes_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_OPEN", 0)
    transport = httpx.ASGITransport(Application(ServeSettings(models=("nothing=tiny",))))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return [await client.post("/generate", json={"inputs": "a"}), await client.get("/health")]

    refused, health = asyncio.run(ask())
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0 and health.status_code == 200


def test_no_middleware_hides_that_a_client_left() -> None:
    settings = ServeSettings(models=("nothing=tiny",), cors=("https://page.example",))
    layer: Any = Application(settings).inner.build_middleware_stack()
    seen: list[Any] = []
    while layer is not None:
        seen.append(layer)
        layer = getattr(layer, "app", None)
    assert len(seen) > 1 and not any(isinstance(each, BaseHTTPMiddleware) for each in seen)
    sources = Path(__file__).parents[2] / "src" / "conjoin" / "serving"
    for path in sources.rglob("*.py"):
        code = [line for line in path.read_text().splitlines() if "must not be used" not in line]
        assert not any("BaseHTTPMiddleware" in line or "@app.middleware" in line for line in code), path
