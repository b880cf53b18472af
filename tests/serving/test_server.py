"""`conjoin serve` over a real socket: answers are those of `generate`, manners are those of a good server."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from command_line import folder_fixture, start  # noqa: F401  (fixtures)
from conjoin import EncoderDecoderModel
from servers import Server, start_server

SOURCES = ["the cat sat", "a dog ran to the old mat", "hello"]


@pytest.fixture(name="server", scope="module")
def server_fixture(folder: Path) -> Iterator[Server]:
    with start_server(f"{folder}=tiny", "--translate", "en:de", "--max-body", "20000", "--max-rows", "16") as server:
        yield server


@pytest.fixture(name="http", scope="module")
def http_fixture(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(name="model", scope="module")
def model_fixture(folder: Path) -> EncoderDecoderModel:
    return EncoderDecoderModel.from_pretrained(folder).eval()


def expected(model: EncoderDecoderModel, source: str, **settings: Any) -> list[str]:
    ids = model.generate(model.tokenizer(source, return_tensors="pt").input_ids, **settings)
    return model.tokenizer.batch_decode(ids, skip_special_tokens=True)


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
        {"repetition_penalty": 1.4, "max_new_tokens": 12},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    ],
)
def test_answers_are_those_of_generate(http: httpx.Client, model: EncoderDecoderModel, settings: Any) -> None:
    answer = http.post("/generate", json={"inputs": SOURCES, "parameters": settings})
    assert answer.status_code == 200, answer.text
    for source, told in zip(SOURCES, answer.json(), strict=True):
        wanted = expected(model, source, **settings)
        assert [each["generated_text"] for each in told.get("sequences", [told])] == wanted


def test_samples_are_those_of_the_seed(http: httpx.Client) -> None:
    body = {"inputs": SOURCES[0], "parameters": {"do_sample": True, "seed": 5, "details": True}}
    first, second = (http.post("/generate", json=body).json() for _ in range(2))
    assert first["generated_text"] == second["generated_text"] and first["details"]["seed"] == 5
    del body["parameters"]["seed"]  # type: ignore[attr-defined]
    seeds = {http.post("/generate", json=body).json()["details"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_the_same_words_whatever_the_load(http: httpx.Client, model: EncoderDecoderModel) -> None:
    kinds: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"num_beams": 2, "max_new_tokens": 20}, {"max_new_tokens": 3}]
    wanted = {(source, n): expected(model, source, **kinds[n])[0] for source in SOURCES for n in range(len(kinds))}

    def ask(number: int) -> tuple[str, str]:
        source, n = SOURCES[number % 3], number % 4
        answer = http.post("/generate", json={"inputs": source, "parameters": kinds[n]})
        return answer.json()["generated_text"], wanted[(source, n)]

    with ThreadPoolExecutor(12) as pool:
        for found, right in pool.map(ask, range(60)):
            assert found == right


def test_streams_add_up(http: httpx.Client, model: EncoderDecoderModel) -> None:
    (right,) = expected(model, SOURCES[1])
    tgi = events(http.post("/generate_stream", json={"inputs": SOURCES[1]}).text)
    assert "".join(event["token"]["text"] for event in tgi) == right == tgi[-1]["generated_text"]
    assert [event["index"] for event in tgi] == list(range(1, len(tgi) + 1))
    fields = {"prompt": SOURCES[1], "stream": True, "stream_options": {"include_usage": True}, "logprobs": 1}
    parts = events(http.post("/v1/completions", json=fields).text)
    assert "".join(part["choices"][0]["text"] for part in parts if part["choices"]) == right
    assert parts[-1]["usage"]["completion_tokens"] > 0
    whole = http.post("/v1/completions", json={**fields, "stream": False, "stream_options": None}).json()
    scored = [
        logprob
        for part in parts
        for choice in part["choices"]
        for logprob in (choice["logprobs"] or {}).get("token_logprobs", [])
    ]
    assert scored == pytest.approx(whole["choices"][0]["logprobs"]["token_logprobs"], abs=1e-4)
    beams = events(http.post("/generate_stream", json={"inputs": SOURCES[1], "parameters": {"num_beams": 4}}).text)
    assert "".join(event["token"]["text"] for event in beams) == expected(model, SOURCES[1], num_beams=4)[0]


def test_a_target_prefix_is_continued(http: httpx.Client, model: EncoderDecoderModel) -> None:
    target: Any = model.tokenizer.target  # pyright: ignore
    ids = target(" n n", add_special_tokens=False)["input_ids"]
    import torch

    source = model.tokenizer(SOURCES[0], return_tensors="pt").input_ids
    row = model.generate(source, decoder_input_ids=torch.tensor([ids]))
    right = model.tokenizer.batch_decode(row, skip_special_tokens=True)[0]
    for prefix in (" n n", ids):
        body = {"inputs": SOURCES[0], "parameters": {"target_prefix": prefix}}
        assert http.post("/generate", json=body).json()["generated_text"] == right
    messages = [{"role": "user", "content": SOURCES[0]}, {"role": "assistant", "content": " n n"}]
    chat = http.post("/v1/chat/completions", json={"messages": messages}).json()
    assert " n n" + chat["choices"][0]["message"]["content"] == right


def test_stop_strings_cut_the_text(http: httpx.Client, model: EncoderDecoderModel) -> None:
    (whole,) = expected(model, SOURCES[1])
    stop = whole[2:4]
    for extra in ({}, {"num_beams": 1, "max_new_tokens": 9}):
        told = http.post("/generate", json={"inputs": SOURCES[1], "parameters": {"stop": [stop], **extra}}).json()
        assert told["generated_text"] == whole[: whole.find(stop)]
        assert told["finish_reason"] == "stop_sequence"
    streamed = events(http.post("/generate_stream", json={"inputs": SOURCES[1], "parameters": {"stop": [stop]}}).text)
    assert streamed[-1]["generated_text"] == whole[: whole.find(stop)]


@pytest.mark.parametrize("kind", [{}, {"do_sample": True}, {"num_beams": 4, "num_return_sequences": 3}])
@pytest.mark.parametrize("prefix", ["", " n n n"])
def test_no_tokens_may_be_asked_for(http: httpx.Client, kind: dict[str, Any], prefix: str) -> None:
    parameters = {"max_new_tokens": 0, "target_prefix": prefix, **kind}
    told = http.post("/generate", json={"inputs": "a", "parameters": parameters}).json()
    assert told["generated_text"] == prefix and told["finish_reason"] == "length"
    assert http.post("/generate", json={"inputs": "a"}).status_code == 200


def test_a_stop_string_leaves_every_result(http: httpx.Client, model: EncoderDecoderModel) -> None:
    whole = expected(model, SOURCES[1], num_beams=4, num_return_sequences=3)
    stop = whole[0][2:4]
    right = [text[: text.find(stop)] if stop in text else text for text in whole]
    asked = {"num_beams": 4, "num_return_sequences": 3, "stop": [stop]}
    told = http.post("/generate", json={"inputs": SOURCES[1], "parameters": {**asked, "details": True}}).json()
    assert [each["generated_text"] for each in told["sequences"]] == right
    body = {"prompt": SOURCES[1], "n": 3, "stop": [stop]}
    choices = http.post("/v1/completions", json=body).json()["choices"]
    assert len(choices) == 3 and choices[0]["finish_reason"] == "stop"
    streamed = events(http.post("/v1/completions", json={**body, "stream": True}).text)
    ended = {choice["index"] for event in streamed for choice in event["choices"] if choice["finish_reason"]}
    assert ended == {0, 1, 2}


def test_requests_that_a_stop_string_ends_take_time(http: httpx.Client, server: Server) -> None:
    before = server.metric("conjoin_e2e_request_latency_seconds_sum")
    whole = http.post("/generate", json={"inputs": SOURCES[1], "parameters": {"num_beams": 1}}).json()["generated_text"]
    between = server.metric("conjoin_e2e_request_latency_seconds_sum")
    http.post("/generate", json={"inputs": SOURCES[1], "parameters": {"num_beams": 1, "stop": [whole[2:4]]}})
    assert before < between < server.metric("conjoin_e2e_request_latency_seconds_sum")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/generate_stream", {"inputs": "a", "parameters": {"best_of": 3, "do_sample": True}}, 422, "best of several"),
        ("/generate", {"inputs": "a", "parameters": {"do_sample": True, "seed": 2**64}}, 422, "64 bits"),
        ("/generate", {"inputs": ["a", "b"], "parameters": {"do_sample": True, "seed": 2**64 - 1}}, 422, "64 bits"),
        ("/generate", {"inputs": ""}, 422, "empty"),
        ("/generate", {"inputs": []}, 422, "empty"),
        ("/generate", {"inputs": "a", "parameters": {"num_beams": 99}}, 422, "at most 8"),
        ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 10**6}}, 422, "at most 1024"),
        ("/generate", {"inputs": "a", "parameters": {"num_beams": 2, "num_return_sequences": 3}}, 422, "num_beams"),
        ("/generate", {"inputs": "a", "parameters": {"top_n_tokens": 500}}, 422, "at most 20"),
        ("/generate", {"inputs": ["a"] * 300}, 422, "at most 128"),
        ("/generate", {"inputs": [[10**7]]}, 422, "expected 0 to"),
        ("/generate", {"inputs": "a b c", "parameters": {"truncation": False, "truncate": 3}}, 413, "longer"),
        ("/generate", {"inputs": "x" * 30000}, 413, "20,000 bytes"),
        ("/generate", {"inputs": "a", "parameters": {"src_lang": "fr", "tgt_lang": "de"}}, 422, "en to de"),
        ("/generate", {"inputs": "\ud800"}, 422, "surrogate"),
        ("/v1/completions", {"prompt": "a", "model": "other"}, 404, "tiny"),
        ("/v1/completions", {"prompt": "a", "best_off": 3}, 400, "best_off"),
        ("/translate", {"q": "a", "source": "de", "target": "en"}, 400, "en:de"),
        ("/", {"inputs": "a", "parameters": {"foo": 1}}, 400, "model_kwargs"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_impossible_requests_are_refused_in_words(
    http: httpx.Client, path: str, body: Any, status: int, words: str
) -> None:
    answer = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    assert words in answer.text


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"inputs": NaN}', b"[" * 5000])
def test_what_is_no_request_is_refused(http: httpx.Client, content: bytes) -> None:
    for path in ("/generate", "/v1/completions", "/v1/chat/completions", "/v1/responses", "/", "/translate", "/detect"):
        answer = http.post(path, content=content, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, (path, answer.text)
        assert "error" in answer.json()


def test_a_cut_source_is_told(http: httpx.Client) -> None:
    long = " ".join(["cat"] * 400)
    assert http.post("/generate", json={"inputs": long}).json()["source_was_cut"] is True
    assert http.post("/v1/completions", json={"prompt": long}).json()["source_was_cut"] == [True]
    assert http.post("/v1/responses", json={"input": long, "truncation": "disabled"}).status_code == 413
    warned = http.post("/generate", json={"inputs": "a", "parameters": {"length_penalty": 2.0, "num_beams": 1}}).json()
    assert "length_penalty" in warned["warnings"][0]


def test_probabilities_and_attention_are_told(http: httpx.Client) -> None:
    parameters = {"details": True, "top_n_tokens": 2, "attention": True}
    details = http.post("/generate", json={"inputs": SOURCES[0], "parameters": parameters}).json()["details"]
    assert len(details["tokens"]) == details["generated_tokens"] == len(details["top_tokens"])
    for token in details["tokens"]:
        assert token["logprob"] <= 0 and len(token["attention"]) == len(details["source_tokens"])
        assert sum(token["attention"]) == pytest.approx(1, abs=0.01)
    one = {**parameters, "attention": {"layer": 0, "head": 1}}
    assert http.post("/generate", json={"inputs": "a", "parameters": one}).status_code == 200
    none = {**parameters, "attention": {"layer": 99}}
    assert http.post("/generate", json={"inputs": "a", "parameters": none}).status_code == 422


def wait_for(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "inputs", "clients"), [("/generate", ["a b c"] * 60, 1), ("/generate_stream", "a b c", 60)]
)
def test_clients_that_leave_free_their_rows(server: Server, path: str, inputs: str | list[str], clients: int) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    left = server.metric("conjoin_cancelled_total")
    parameters = {"max_new_tokens": 60, "min_new_tokens": 60, "num_beams": 8, "num_return_sequences": 8}
    body = json.dumps({"inputs": inputs, "parameters": parameters})
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with contextlib.ExitStack() as connections:  # more work than a machine does before it is asked for its rows
        for _ in range(clients):
            connection = connections.enter_context(socket.create_connection((host, int(port))))
            connection.sendall((head + body).encode())
        wait_for(lambda: server.metric("conjoin_rows") > 0)
    wait_for(lambda: server.metric("conjoin_rows") == server.metric("conjoin_num_requests_waiting") == 0)
    wait_for(lambda: server.metric("conjoin_cancelled_total") > left)


def test_a_request_that_takes_too_long_is_given_up(http: httpx.Client) -> None:
    parameters = {"timeout": 0.001, "max_new_tokens": 60, "min_new_tokens": 60, "num_beams": 8}
    answer = http.post("/generate", json={"inputs": ["a"] * 48, "parameters": parameters})
    assert answer.status_code == 504, answer.text
    assert answer.json()["error_type"] == "incomplete_generation"


def test_every_answer_has_a_request_id(http: httpx.Client, server: Server) -> None:
    answer = http.get("/health", headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert len(http.get("/health", headers={"x-request-id": "no such\tid"}).headers["x-request-id"]) == 32
    http.post("/generate", json={"inputs": "a secret text"}, headers={"x-request-id": "seen-by-the-log"})
    wait_for(lambda: "request_id=seen-by-the-log" in server.log)
    assert "secret" not in server.log


def test_metrics_hold_no_address_and_no_text(http: httpx.Client) -> None:
    http.post("/generate", json={"inputs": "a secret text"})
    text = http.get("/metrics").text
    assert "secret" not in text and "127.0.0.1" not in text
    for name in ("num_requests_running", "request_success_total", "e2e_request_latency_seconds_bucket", "steps_total"):
        assert f"conjoin_{name}" in text


def test_libretranslate_over_the_wire(http: httpx.Client, model: EncoderDecoderModel) -> None:
    form = http.post("/translate", data={"q": SOURCES[0], "source": "en", "target": "de"})
    assert form.json() == {"translatedText": expected(model, SOURCES[0])[0]}
    assert http.post("/detect", data={"q": "a"}).json() == [{"confidence": 0, "language": "en"}]
    assert http.get("/languages").json()[1]["targets"] == ["de"]
    assert http.get("/frontend/settings").json()["language"]["target"]["code"] == "de"


def test_a_reload_swaps_without_a_gap(http: httpx.Client, model: EncoderDecoderModel) -> None:
    (right,) = expected(model, SOURCES[0])
    stopped = threading.Event()
    wrong: list[str] = []

    def ask() -> None:
        while not stopped.is_set():
            answer = http.post("/generate", json={"inputs": SOURCES[0]})
            if answer.status_code != 200 or answer.json()["generated_text"] != right:
                wrong.append(answer.text)

    thread = threading.Thread(target=ask)
    thread.start()
    before = http.get("/info").json()["models"][0]["loaded"]
    time.sleep(1.1)
    assert http.post("/admin/reload").json() == {"reloaded": ["tiny"]}
    time.sleep(0.5)
    stopped.set()
    thread.join()
    assert not wrong
    assert http.get("/info").json()["models"][0]["loaded"] > before


def test_a_full_queue_is_told_before_any_work(folder: Path) -> None:
    with start_server(folder, "--max-queue", "4", "--max-rows", "1") as server:
        body = {"inputs": "a b", "parameters": {"max_new_tokens": 50, "min_new_tokens": 50, "num_beams": 4}}
        statuses: list[int] = []

        def ask(_: int) -> None:
            answer = httpx.post(f"{server.url}/generate", json=body, timeout=60)
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1 and answer.json()["error_type"] == "overloaded"

        with ThreadPoolExecutor(24) as pool:
            list(pool.map(ask, range(24)))
        assert set(statuses) <= {200, 429} and 429 in statuses and statuses.count(200) >= 4
        many = httpx.post(f"{server.url}/generate", json={**body, "inputs": ["a"] * 5}, timeout=60)
        assert many.status_code == 413


def test_sigterm_lets_running_requests_finish(folder: Path) -> None:
    server = start_server(folder)
    body = {"inputs": "a b c", "parameters": {"max_new_tokens": 60, "min_new_tokens": 60, "num_beams": 8}}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(httpx.post, f"{server.url}/generate", json=body, timeout=60) for _ in range(4)]
        wait_for(lambda: server.metric("conjoin_rows") > 0)
        code = server.stop()
        assert [each.result().status_code for each in asked] == [200] * 4
    assert code == 0


def test_keys_are_asked_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# of the team\nkey-one-1\nkey-two-2\n")
    with start_server(folder, "--api-key-file", tmp_path / "keys", "--translate", "en:de") as server:
        ask = {"inputs": "a"}
        assert httpx.post(f"{server.url}/generate", json=ask).status_code == 401
        for headers in ({"authorization": "Bearer key-two-2"}, {"x-api-key": "key-one-1"}):
            assert httpx.post(f"{server.url}/generate", json=ask, headers=headers).status_code == 200
        wrong = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"}, headers={"x-api-key": "key-one-"})
        assert wrong.status_code == 401 and wrong.json()["error"]["code"] == "invalid_api_key"
        body = {"q": "a", "source": "en", "target": "de"}
        assert httpx.post(f"{server.url}/translate", json=body).status_code == 401
        assert httpx.post(f"{server.url}/translate", json={**body, "api_key": "key-two-2"}).status_code == 200
        for path in ("/health", "/ready", "/metrics"):
            assert httpx.get(server.url + path).status_code == 200
        assert "key-one" not in server.log and "key-two" not in server.log
        assert httpx.get(f"{server.url}/info").status_code == 401


def test_an_idle_model_is_unloaded_and_comes_back(folder: Path) -> None:
    with start_server(f"{folder}=a", f"{folder}=b", "--ttl", "0.5") as server:
        wait_for(lambda: {each["state"] for each in server.info()["models"]} == {"unloaded"})
        assert json.loads(server.get("/ready"))["status"] == "ready"
        with ThreadPoolExecutor(4) as pool:  # all of them wait for the model that the first one wakes
            asked = [
                pool.submit(httpx.post, f"{server.url}/models/b", json={"inputs": "a"}, timeout=60) for _ in range(4)
            ]
            while not all(each.done() for each in asked):
                assert httpx.get(f"{server.url}/ready").status_code == 200
        for each in asked:
            assert each.result().status_code == 200 and "generated_text" in each.result().json()[0]


def test_a_public_address_needs_a_key(folder: Path) -> None:
    process = start("serve", folder, "--host", "0.0.0.0", "--port", "0")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and b"--no-auth" in told


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    process = start("serve", tmp_path, "--port", "0")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and b"cannot load" in told
