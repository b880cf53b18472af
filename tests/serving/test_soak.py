"""A server under load for minutes, with clients that leave and bodies that are broken: nothing grows.

`CONJOIN_SOAK_MINUTES` sets the length; 3 minutes without it.
"""

import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from command_line import folder_fixture  # noqa: F401  (fixture)
from servers import Server, start_server

MINUTES = float(os.environ.get("CONJOIN_SOAK_MINUTES", "3"))
CLIENTS = 6
MEMORY = 48 << 20
"""Bytes by which resident memory may grow: glibc keeps freed blocks, in an arena per thread."""
FILES = 8
"""Open files that may differ: idle connections of clients that have just left."""
TEXTS = ["a", "the cat sat", "a dog ran to the old mat", "a b c " * 30, "ünï \U0001f40d 猫"]
BROKEN = [b"", b"{", b"[" * 3000, b'{"inputs": 5}', b"\xff\x00", b'{"inputs": "a", "parameters": {"num_beams": -1}}']

Ask = Callable[[httpx.Client, random.Random], Any]


def generate(client: httpx.Client, draw: random.Random) -> Any:
    parameters: dict[str, Any] = {"num_beams": draw.choice([1, 1, 2, 4]), "max_new_tokens": draw.randint(1, 40)}
    if draw.random() < 0.3:
        parameters |= {"details": True, "top_n_tokens": 3, "attention": True}
    return client.post(
        "/generate", json={"inputs": draw.choices(TEXTS, k=draw.randint(1, 4)), "parameters": parameters}
    )


def sample(client: httpx.Client, draw: random.Random) -> Any:
    body = {"prompt": draw.choice(TEXTS), "temperature": 0.9, "n": draw.randint(1, 3), "logprobs": 2, "max_tokens": 20}
    return client.post("/v1/completions", json=body)


def stream(client: httpx.Client, draw: random.Random) -> Any:
    body = {"inputs": draw.choice(TEXTS), "parameters": {"num_beams": draw.choice([1, 3]), "max_new_tokens": 40}}
    with client.stream("POST", "/generate_stream", json=body) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number > draw.randint(2, 60):
                break  # leaves in the middle
        return answer


def translate(client: httpx.Client, draw: random.Random) -> Any:
    return client.post("/translate", data={"q": draw.choice(TEXTS), "source": "en", "target": "de"})


def broken(client: httpx.Client, draw: random.Random) -> Any:
    return client.post(draw.choice(["/generate", "/v1/completions", "/"]), content=draw.choice(BROKEN))


def leave(client: httpx.Client, draw: random.Random) -> Any:
    parameters = {"max_new_tokens": 60, "min_new_tokens": 60, "num_beams": draw.choice([1, 4])}
    body = json.dumps({"inputs": ["a b c"] * 3, "parameters": parameters}).encode()
    lines = ("POST /generate HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode()
    whole = head + body
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(whole[: draw.choice([9, len(head), len(whole) - 5, len(whole), len(whole)])])
        time.sleep(draw.random() * 0.2)


KINDS: list[tuple[Ask, int]] = [(generate, 5), (sample, 3), (stream, 4), (translate, 2), (broken, 2), (leave, 3)]


class Load:
    """Clients that ask without pause until they are told to stop."""

    def __init__(self, server: Server) -> None:
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self._server, self._stopped = server, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def run(self, seconds: float) -> None:
        """Ask for so many seconds."""
        for thread in self._threads:
            thread.start()
        self._stopped.wait(seconds)
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        draw = random.Random(number)
        functions, weights = zip(*KINDS, strict=True)
        while not self._stopped.is_set():
            with httpx.Client(base_url=self._server.url, timeout=120) as client:
                for _ in range(draw.randint(1, 12)):
                    (ask,) = draw.choices(functions, weights)
                    answer = ask(client, draw)
                    if isinstance(answer, httpx.Response):
                        self.statuses[answer.status_code] += 1
                        if answer.status_code >= 500:
                            self.faults.append(f"{ask.__name__}: {answer.status_code}")


def figures(server: Server) -> dict[str, float]:
    """Return what must not grow, once nothing runs."""
    end = time.monotonic() + 60
    while server.metric("conjoin_rows") + server.metric("conjoin_num_requests_waiting") > 0:
        assert time.monotonic() < end, "requests are left over"
        time.sleep(0.1)
    time.sleep(1)
    process = psutil.Process(server.process.pid)
    return {
        "memory": float(process.memory_info().rss),
        "threads": float(process.num_threads()),
        "files": float(process.num_fds()),
        "cache": server.metric("conjoin_kv_cache_bytes"),
        "series": float(len(server.get("/metrics").splitlines())),
    }


@pytest.mark.slow
def test_nothing_grows_under_load(folder: Path) -> None:
    with start_server(f"{folder}=tiny", "--translate", "en:de", "--max-rows", "16") as server:
        warm, rest = Load(server), Load(server)
        warm.run(min(120.0, MINUTES * 12))
        before = figures(server)
        rest.run(max(10.0, MINUTES * 60 - min(120.0, MINUTES * 12)))
        after = figures(server)
        steps = server.metric("conjoin_steps_total")
        told = f"before {before}, after {after}, statuses {dict(rest.statuses)}, steps {steps:.0f}"
        print(told)
        assert not warm.faults and not rest.faults and "unexpected" not in server.log, told
        assert after["memory"] <= before["memory"] + MEMORY, told
        assert after["threads"] <= before["threads"] + 1, told
        assert after["files"] <= before["files"] + FILES, told
        assert after["cache"] == before["cache"] == 0, told
        assert after["series"] <= before["series"] + 30, told
        assert httpx.post(f"{server.url}/generate", json={"inputs": ["a"] * 128}, timeout=120).status_code == 200
