"""OpenAI's batch files: a request to an endpoint in every line, and its response in a line of the results."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from conjoin.bulk.inputs import Entry, Input
from conjoin.bulk.rows import Row
from conjoin.errors import DataError, listing, lone_surrogate, shown
from conjoin.evaluation.texts import Failed, Generated, source_seed
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.lines import STDIN, Bad, parsed, problems_of, raw_lines

ENDPOINTS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
_OF_CONJOIN = ENDPOINTS[:2]
"""Endpoints whose bodies may have a seed, and conjoin's priority."""
_LONGEST_ID = 512
"""Characters of a custom_id, as OpenAI's documentation has it."""


def batch_input(name: str, *, keep_errors: bool) -> Input:
    """Return the requests of a batch file, which is read once before, to find what is damaged; "-" is stdin.

    The text of a source is JSON: {"url": ..., "body": ...}; its row has the custom_id.

    Raises:
        DataError: lines are damaged, unless errors are kept.
    """
    total = None
    if name != STDIN:
        total, problems = 0, list[tuple[int, str]]()
        for number, entry in _entries(name):
            total += 1
            if isinstance(entry, Bad) and not keep_errors:
                problems.append((number, entry))
                if len(problems) == DATA_PROBLEMS:
                    break
        if problems:
            raise DataError(f"{name} cannot be used:\n{listing(problems_of(problems))}")
    return Input(_entries(name), total, "stdin" if name == STDIN else name)


def _entries(name: str) -> Iterator[tuple[int, Entry]]:
    seen: set[str] = set()
    for number, line in enumerate(raw_lines(name), 1):
        if line.strip():
            yield number, _entry(line, seen)


def _entry(line: bytes, seen: set[str]) -> Entry:
    value = parsed(line)
    if isinstance(value, Bad):
        return value
    if not isinstance(value, dict):
        return Bad(f"a {type(value).__name__}, expected an object with custom_id, method, url and body.")
    request = cast("dict[str, Any]", value)
    if b"\\u" in line and (problem := lone_surrogate(json.dumps(request, ensure_ascii=False))):
        return Bad(problem)
    custom_id = request.get("custom_id")
    row = {"custom_id": custom_id} if isinstance(custom_id, str) else {}
    if problem := _problem(request, seen):
        return Bad(problem).of(row)
    seen.add(str(custom_id))
    return json.dumps({"url": request["url"], "body": request["body"]}, ensure_ascii=False), row


def _problem(request: Mapping[str, Any], seen: set[str]) -> str | None:
    custom_id, body = request.get("custom_id"), request.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_ID:
        return f"custom_id is {shown(custom_id)}; expected a text of 1 to {_LONGEST_ID} characters."
    if custom_id in seen:
        return f"custom_id {shown(custom_id)} is there twice."
    if request.get("method") != "POST":
        return f"method is {shown(request.get('method'))}; expected 'POST'."
    if request.get("url") not in ENDPOINTS:
        return f"url is {shown(request.get('url'))}; expected one of {', '.join(ENDPOINTS)}."
    if not isinstance(body, dict):
        return f"body is a {type(body).__name__}; expected an object."
    if cast("dict[str, Any]", body).get("stream"):
        return "body.stream is true; a line of a file is no stream."
    return None


def request_of(text: str, model: str, seed: int, index: int) -> dict[str, Any]:
    """Return the url and the body of a request: for the model of this run, with the source's seed if it has none."""
    request: dict[str, Any] = json.loads(text)
    body = {**request["body"], "model": model}
    if request["url"] in _OF_CONJOIN:
        body["priority"] = "bulk"
        if body.get("seed") is None:
            body["seed"] = source_seed(seed, index)
    return {"url": request["url"], "body": body}


def response_text(status: int, request_id: str, body: Any) -> str:
    """Return a response as an outcome has it: the text of a result, or of an error."""
    return json.dumps({"status_code": status, "request_id": request_id, "body": body}, ensure_ascii=False)


class BatchAnswers:
    """Lines of results: as OpenAI's output and error files have them, in one file and in the order of the requests."""

    def made(self, index: int, row: Mapping[str, Any], made: Generated) -> Row:
        """Return the line of a request that was answered."""
        return self._line(index, row, json.loads(made.texts[0]), None)

    def failed(self, index: int, row: Mapping[str, Any], failed: Failed) -> Row:
        """Return the line of a request that was refused, or could not be read or answered."""
        try:
            response: Any = json.loads(failed.error)
            if isinstance(response, dict) and "status_code" in response:
                return self._line(index, row, response, None)
        except ValueError:
            pass
        return self._line(index, row, None, {"code": "failed", "message": failed.error})

    @staticmethod
    def _line(index: int, row: Mapping[str, Any], response: Any, error: Any) -> Row:
        return {
            "id": f"batch_req_{index + 1}",
            "custom_id": row.get("custom_id"),
            "response": response,
            "error": error,
        }
