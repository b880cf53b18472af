"""OpenAI's batch files: every request gets the response that a server would give it, in the order of the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from bulk_servers import Body, fake
from command_line import folder_fixture, run_fixture, start  # noqa: F401  (fixtures)
from conjoin import EncoderDecoderModel
from conjoin.bulk import fleet
from conjoin.bulk.batch_files import BatchAnswers, batch_input, request_of
from conjoin.evaluation import TextSettings, generate_texts
from conjoin.evaluation.texts import Failed, source_seed
from conjoin.texts.lines import Bad
from servers import start_server

TEXTS = ["the cat sat", "a dog ran to the old mat", "hello"]


def line(custom_id: str, body: Body, url: str = "/v1/completions", **other: Any) -> Body:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **other}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in path.read_text().splitlines()]


REQUESTS = [
    line("one", {"model": "theirs", "prompt": TEXTS[0]}),
    line("chat", {"messages": [{"role": "user", "content": TEXTS[1]}], "n": 2}, "/v1/chat/completions"),
    line("response", {"model": "theirs", "input": TEXTS[2]}, "/v1/responses"),
    line("two", {"prompt": TEXTS[:2], "max_tokens": 4}),
    line("bad", {"prompt": TEXTS[0], "logit_bias": {"5": 1}}),
    line("sampled", {"prompt": TEXTS[0], "temperature": 1.0}),
]


def require_right(found: list[dict[str, Any]], folder: Path, model: str) -> None:
    """Check the responses to REQUESTS."""
    pair = EncoderDecoderModel.from_pretrained(folder)
    wanted = generate_texts(pair, TEXTS)
    assert [row["custom_id"] for row in found] == ["one", "chat", "response", "two", "bad", "sampled"]
    assert all(list(row) == ["id", "custom_id", "response", "error"] and row["error"] is None for row in found)
    assert [row["response"]["status_code"] for row in found] == [200, 200, 200, 200, 400, 200]
    one, chat, response, two, bad, sampled = (row["response"]["body"] for row in found)
    assert one["choices"][0]["text"] == wanted[0] and one["model"] == model and one["object"] == "text_completion"
    beams = [pair.tokenizer.batch_decode(pair.generate(
        **pair.tokenizer([TEXTS[1]], return_tensors="pt"), num_beams=4, num_return_sequences=2  # pyright: ignore
    ), skip_special_tokens=True)]  # fmt: skip
    assert [[choice["message"]["content"] for choice in chat["choices"]]] == beams
    assert response["output"][0]["content"][0]["text"] == wanted[2] and response["object"] == "response"
    short = generate_texts(pair, TEXTS[:2], TextSettings(generation={"max_new_tokens": 4}))
    assert [choice["text"] for choice in two["choices"]] == short
    assert bad["error"]["param"] == "logit_bias" and bad["error"]["type"] == "invalid_request_error"
    settings = TextSettings(generation={"do_sample": True}, seed=7)
    drawn = generate_texts(pair, [""] * 5 + TEXTS[:1], settings)  # the sixth source of a run
    assert sampled["choices"][0]["text"] == drawn[5]
    assert len({row["response"]["request_id"] for row in found}) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_every_endpoint_answers_in_one_process_and_in_several(
    workers: tuple[str, ...], run: Any, folder: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "in.jsonl", *REQUESTS)
    words = ("generate", folder, "-i", path, "--input-format", "openai", "--seed", "7", *workers)
    told = run(*words, "-o", tmp_path / "out.jsonl")
    assert told.code == 3 and "1 sources failed" in told.err
    require_right(rows(tmp_path / "out.jsonl"), folder, folder.name)
    fixed = [request if request["custom_id"] != "bad" else line("bad", {"prompt": TEXTS[0]}) for request in REQUESTS]
    write(path, *fixed)
    told = run(*words, "-o", tmp_path / "out.jsonl")
    assert told.code == 0 and "5 results exist already" in told.err
    assert rows(tmp_path / "out.jsonl")[4]["response"]["status_code"] == 200


@pytest.mark.slow
def test_servers_answer_a_batch_file_as_one_process(run: Any, folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", *REQUESTS)
    with start_server(f"{folder}=tiny") as server:
        words = ("generate", "tiny", "-i", path, "--input-format", "openai", "--seed", "7", "--server", server.url)
        told = run(*words)
    assert told.code == 3, told.err
    require_right([*map(json.loads, told.lines)], folder, "tiny")


DAMAGED: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not JSON"),
    "a list": ([1], "a list, expected an object"),
    "no id": ({"method": "POST"}, "custom_id is None"),
    "an empty id": (line("", {}), "custom_id is ''"),
    "a long id": (line("x" * 513, {}), "expected a text of 1 to 512 characters"),
    "an id twice": (line("ok", {}), "custom_id 'ok' is there twice"),
    "another method": (line("a", {}, method="GET"), "method is 'GET'; expected 'POST'"),
    "another endpoint": (line("a", {}, "/v1/embeddings"), "url is '/v1/embeddings'; expected one of /v1/completions"),
    "no body": (line("a", []), "body is a list"),  # pyright: ignore[reportArgumentType]
    "a stream": (line("a", {"stream": True}), "body.stream is true"),
    "half a character": ('{"custom_id": "a", "x": "\\ud800"}', "holds a lone surrogate"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_line_is_an_error_of_its_own(case: str, run: Any, tmp_path: Path) -> None:
    damaged, message = DAMAGED[case]
    path = write(tmp_path / "in.jsonl", line("ok", {"prompt": "a"}), "", damaged)
    with fake(lambda body: (200, {"choices": [body["prompt"]]}, {"x-request-id": "r7"})) as server:
        words = ("generate", "m", "-i", path, "--input-format", "openai", "--server", server.url)
        told = run(*words)
        assert told.code == 3, told.err
        first, second = map(json.loads, told.lines)
        response = {"status_code": 200, "request_id": "r7", "body": {"choices": ["a"]}}
        assert first == {"id": "batch_req_1", "custom_id": "ok", "response": response, "error": None}
        assert second["id"] == "batch_req_2" and second["response"] is None
        assert second["error"]["message"].startswith("line 3: ") and message in second["error"]["message"]
        told = run(*words, "--on-error", "stop")
        assert told.code == 1 and message in told.err and not told.out


def test_a_request_has_the_runs_model_a_low_priority_and_a_seed_of_its_own() -> None:
    text = json.dumps({"url": "/v1/completions", "body": {"model": "theirs", "prompt": "a"}})
    seeded = {"model": "m", "prompt": "a", "priority": "bulk", "seed": source_seed(7, 3)}
    assert request_of(text, "m", 7, 3) == {"url": "/v1/completions", "body": seeded}
    text = json.dumps({"url": "/v1/chat/completions", "body": {"seed": 5}})
    assert request_of(text, "m", 7, 3)["body"] == {"model": "m", "priority": "bulk", "seed": 5}
    text = json.dumps({"url": "/v1/responses", "body": {"input": "a"}})
    assert request_of(text, "m", 7, 3)["body"] == {"model": "m", "input": "a"}


def test_what_is_no_response_is_an_error_of_the_line() -> None:
    for error in ("WorkerDied: it ended", "[1]", "3"):
        row = BatchAnswers().failed(4, {"custom_id": "a"}, Failed(4, error))
        assert row["response"] is None and row["error"] == {"code": "failed", "message": error}


def test_servers_that_are_busy_or_refuse_a_request(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_FIRST_WAIT_S", 0.01)
    requests = [line(f"r{number}", {"prompt": f"text {number}"}) for number in range(40)]
    busy: set[str] = set()

    def answer(body: Body) -> Any:
        if body["prompt"] not in busy:
            busy.add(body["prompt"])
            return 429, {"error": "full"}, {"retry-after": "0"}
        status = 400 if body["prompt"] == "text 13" else 200
        return status, {"error": {"message": "too long"}} if status == 400 else body, {}

    with fake(answer) as one, fake(answer) as two:
        path = write(tmp_path / "in.jsonl", *requests)
        words = ("generate", "m", "-i", path, "--input-format", "openai", "--server", f"{one.url},{two.url}")
        told = run(*words)
    found = [json.loads(each) for each in told.lines]
    assert told.code == 3 and [row["custom_id"] for row in found] == [f"r{number}" for number in range(40)]
    assert [row["response"]["status_code"] for row in found] == [400 if n == 13 else 200 for n in range(40)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--num-beams", "2"), "each request of a batch file"),
        (("--scores",), "each request of a batch file"),
        (("a text",), "a batch file is named with --input"),
    ],
)
def test_options_that_a_batch_file_cannot_have_are_refused(words: tuple[str, ...], message: str, run: Any) -> None:
    told = run("generate", "m", "--input-format", "openai", *words)
    assert told.code == 2 and message in told.err


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", REQUESTS[0], "x")
    found = batch_input(str(path), keep_errors=True)
    assert found.total == 2 and [isinstance(entry, Bad) for _, entry in found.entries] == [False, True]
    with pytest.raises(Exception, match=r"no\.jsonl: cannot be read"):
        batch_input(str(tmp_path / "no.jsonl"), keep_errors=True)
