"""How the server treats clients that are slow, leave, send too much or come in odd ways: over real sockets."""

import contextlib
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from command_line import folder_fixture, start  # noqa: F401  (fixtures)
from servers import Server, start_server

PACE = 2.0
"""Seconds that the server of these tests gives a client."""
LONG: dict[str, Any] = {"max_new_tokens": 60, "min_new_tokens": 60, "num_beams": 8}


@pytest.fixture(name="server", scope="module")
def server_fixture(folder: Path) -> Iterator[Server]:
    flags = ("--client-timeout", PACE, "--max-body", "200000", "--max-rows", "8", "--max-queue", "24")
    with start_server(f"{folder}=tiny", *map(str, flags)) as server:
        yield server


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split("/")[0].split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    return connection


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers]
    if not any(line.startswith("transfer-encoding") for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_all(connection: socket.socket) -> str:
    parts: list[bytes] = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts).decode()


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def ask(server: Server, **parameters: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/generate", json={"inputs": "a b", "parameters": parameters}, timeout=120)


def assert_idle_and_well(server: Server) -> None:
    """Check that nothing runs, and that every place of the queue is free again."""
    wait_for(lambda: server.metric("conjoin_rows") == server.metric("conjoin_num_requests_waiting") == 0)
    answer = httpx.post(f"{server.url}/generate", json={"inputs": ["a"] * 24}, timeout=120)
    assert answer.status_code == 200, answer.text


def test_a_body_that_stops_is_given_up_in_time(server: Server) -> None:
    begun = time.monotonic()
    with connect(server) as connection:
        connection.sendall(post("/generate", b'{"inputs": "a"}')[:-6])
        told = read_all(connection)
    assert " 408 " in told and f"{PACE:g} seconds" in told and "connection: close" in told
    assert PACE - 0.2 <= time.monotonic() - begun < PACE + 20


def test_a_body_that_trickles_is_given_up_too(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(post("/v1/completions", b"x" * 1000)[:-1000])
        end = time.monotonic() + 4 * PACE
        try:
            while time.monotonic() < end:
                connection.sendall(b" ")
                time.sleep(PACE / 10)
        except ConnectionError:
            return
        assert " 408 " in read_all(connection)


@pytest.mark.parametrize("size", [300_000, 4_000_000])
def test_a_body_that_is_too_large_is_told_to_its_sender(server: Server, size: int) -> None:
    body = json.dumps({"inputs": "x" * size}).encode()
    assert httpx.post(f"{server.url}/generate", content=body, timeout=60).status_code == 413
    chunks = (body[place : place + 10_000] for place in range(0, len(body), 10_000))
    assert httpx.post(f"{server.url}/generate", content=chunks, timeout=60).status_code == 413


def test_a_client_that_waits_for_leave_to_send_is_told_at_once(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(post("/generate", b"x" * 300_000, "expect: 100-continue")[:-300_000])
        told = read_all(connection)
    assert told.startswith("HTTP/1.1 413")


@pytest.mark.parametrize(
    "parts",
    [
        [b"x-much: " + b"y" * 200_000 + b"\r\n\r\n"],
        [b"x-much: ", *[b"y" * 1000] * 60],  # never ends
        [b"x-much: " + b"y" * 60_000],  # nor does this
        [b"x-%d: y\r\n" % number for number in range(6000)],
        [b"cookie: a=b\r\n" * 4000 + b"\r\n"],
    ],
    ids=["at once", "one that goes on", "one that goes on, at once", "many", "many at once"],
)
def test_headers_that_are_too_large_are_refused(server: Server, parts: list[bytes]) -> None:
    start = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
    with connect(server) as connection:
        with contextlib.suppress(ConnectionError):  # the server has hung up
            for part in [start + parts[0], *parts[1:]]:
                connection.sendall(part)
        with contextlib.suppress(ConnectionError):
            assert read_all(connection).startswith("HTTP/1.1 431")
    assert_idle_and_well(server)


UPGRADE = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")


@pytest.mark.parametrize("part", [1, 30, 1000, 100_000])
def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one(server: Server, part: int) -> None:
    """Java's HttpClient asks so with every request, and is told of a missing body by many a server."""
    body = json.dumps({"inputs": "a b c", "parameters": {"max_new_tokens": 2}}).encode()
    requests = post("/generate", body, *UPGRADE) * 2 + post(
        "/generate", body, "connection: Upgrade, close", "upgrade: x"
    )
    with connect(server) as connection:
        for begin in range(0, len(requests), part):
            connection.sendall(requests[begin : begin + part])
        assert read_all(connection).count("HTTP/1.1 200") == 3
    assert_idle_and_well(server)


def test_a_body_behind_a_wish_for_another_protocol_is_read_whole(server: Server) -> None:
    body = json.dumps({"inputs": "a b c", "parameters": {"max_new_tokens": 2}}).encode()[:-1] + b" " * 60_000 + b"}"
    with connect(server) as connection:
        connection.sendall(post("/generate", body, "connection: upgrade, close", "upgrade: h2c"))
        assert read_all(connection).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("trailer", [b"a: b\r\n", b"x"])
def test_what_follows_a_body_is_bounded_too(server: Server, trailer: bytes) -> None:
    """Fields behind the last chunk: many, or one that does not end."""
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    begin = b"a: " if trailer == b"x" else b""
    with connect(server) as connection:
        connection.sendall(head + b'5\r\n{"inp\r\n0\r\n' + begin)
        sent = 0
        try:
            while sent < 1 << 22:
                sent += connection.send(trailer * 2000)
        except ConnectionError:
            pass
        assert sent < 1 << 22
    assert_idle_and_well(server)


def test_trailers_are_no_headers(server: Server) -> None:
    body = b'{"inputs": "a b"}'
    chunked = b"%x\r\n%s\r\n0\r\nx-request-id: late\r\n\r\n" % (len(body), body)
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n"
    with connect(server) as connection:
        connection.sendall(head + b"connection: close\r\n\r\n" + chunked)
        told = read_all(connection)
    assert " 200 " in told.splitlines()[0] and "late" not in told


def test_a_form_that_stops_is_the_clients_fault(folder: Path) -> None:
    """Without a fault in the log, which would wake somebody."""
    with start_server(folder, "--translate", "en:de") as server:
        form = post("/translate", b"q=a&source=en&target=de", "content-type: application/x-www-form-urlencoded")
        with connect(server) as connection:
            connection.sendall(form[:-4])
        answer = httpx.post(f"{server.url}/translate", data={"q": "a", "source": "en", "target": "de"}, timeout=60)
        assert answer.status_code == 200
        assert "Traceback" not in server.log and "status=500" not in server.log


def test_a_path_that_is_too_large_is_refused(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /health?" + b"y" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_all(connection).startswith("HTTP/1.1 431")
    assert_idle_and_well(server)


def test_a_body_does_not_count_as_headers_of_the_next_request(server: Server) -> None:
    first = post("/generate", json.dumps({"inputs": "a", "x": "y" * 60_000}).encode())
    second = post("/v1/completions", json.dumps({"prompt": "a"}).encode(), "connection: close")
    with connect(server) as connection:
        connection.sendall(first + second[:30])
        time.sleep(0.2)
        connection.sendall(second[30:])
        told = read_all(connection)
    assert told.count("HTTP/1.1 200") == 1 and "HTTP/1.1 431" not in told


def test_headers_of_thousands_of_bytes_are_read(server: Server) -> None:
    with connect(server) as connection:
        many = [f"x-{number}: {'y' * 1000}" for number in range(20)]
        connection.sendall(post("/v1/completions", json.dumps({"prompt": "a"}).encode(), *many, "connection: close"))
        assert read_all(connection).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("length", ["transfer-encoding: chunked", "content-length: 30", "content-length: -1"])
def test_two_lengths_of_a_body_are_refused(server: Server, length: str) -> None:
    with connect(server) as connection:
        request = f"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n{length}\r\n\r\n0\r\n\r\n"
        connection.sendall(request.encode())
        assert read_all(connection).startswith("HTTP/1.1 400")
    assert_idle_and_well(server)


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b"POST /generate HTTP/1.1\r\nhost: x\r\nx-a: "])
def test_a_client_that_does_not_send_its_headers_is_left(server: Server, begun: bytes) -> None:
    with connect(server) as connection:
        start = time.monotonic()
        connection.sendall(begun)
        for _ in range(4 if begun else 0):
            time.sleep(2)
            connection.sendall(b"y")
        assert read_all(connection).startswith("HTTP/1.1 408")
        assert 10 < time.monotonic() - start < 40
    assert_idle_and_well(server)


def test_two_requests_in_one_packet_are_answered_in_order(server: Server) -> None:
    first = json.dumps({"inputs": "a b", "parameters": {"max_new_tokens": 30, "details": True, "seed": 1}}).encode()
    second = json.dumps({"inputs": "a b", "parameters": {"details": True, "seed": 2}}).encode()
    with connect(server) as connection:
        connection.sendall(post("/generate", first) + post("/generate", second, "connection: close"))
        told = read_all(connection)
    assert told.count("HTTP/1.1 200") == 2
    assert 0 < told.find('"seed":1,') < told.find('"seed":2,')


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.3])
def test_clients_that_leave_leave_nothing_behind(server: Server, wait: float) -> None:
    texts = ["a b c " * 900] if not wait else ["a b c"]  # so that some leave while their text is read
    request = post("/generate", json.dumps({"inputs": texts * 3, "parameters": LONG}).encode())
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(request)
            time.sleep(wait)
    assert_idle_and_well(server)


def test_connections_that_are_opened_and_left_are_closed(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    connections = [connect(server) for _ in range(300)]
    for connection in connections[:150]:
        connection.sendall(b"POST /generate HT")
    wait_for(lambda: process.num_fds() > before + 250)
    assert httpx.get(f"{server.url}/health").status_code == 200
    for connection in connections:
        connection.close()
    wait_for(lambda: process.num_fds() <= before + 20)


@pytest.mark.slow
def test_a_reader_that_stops_does_not_hold_its_answer(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    body = {"prompt": ["a b"] * 24, "n": 8, "max_tokens": 60, "min_tokens": 60, "logprobs": 20, "stream": True}
    connection = socket.socket()
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        with connect(server) as other:
            address = other.getpeername()
        connection.connect(address)
        connection.sendall(post("/v1/completions", json.dumps(body).encode()))
        connection.recv(100)
        wait_for(lambda: server.metric("conjoin_rows") == 0, 120)
        wait_for(lambda: process.num_fds() <= before + 4, 120)  # its connection is gone, though it did not close it
    assert_idle_and_well(server)


def test_probes_may_ask_for_the_head_only(server: Server) -> None:
    for path in ("/health", "/ready", "/ping", "/"):
        answer = httpx.head(server.url + path)
        assert answer.status_code == 200 and not answer.content
    refused = httpx.options(f"{server.url}/generate")
    assert refused.status_code == 405 and refused.headers["allow"] == "POST"


def test_a_port_that_is_taken_is_told(server: Server, folder: Path) -> None:
    process = start("serve", folder, "--port", server.url.rsplit(":", 1)[1])
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1 and b"cannot be used" in told and b"Traceback" not in told


def test_pages_of_other_origins_behind_a_proxy_with_keys(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key-one-1\n")
    origin = {"origin": "https://page.example"}
    flags = ("--cors", origin["origin"], "--api-key-file", tmp_path / "keys", "--root-path", "/models-here")
    with start_server(folder, *flags) as server:
        base = server.url.removesuffix("/models-here")
        asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        leave = httpx.options(f"{base}/generate", headers=asked)
        assert leave.status_code == 200 and leave.headers["access-control-allow-origin"] == origin["origin"]
        stranger = httpx.options(f"{base}/generate", headers={**asked, "origin": "https://other.example"})
        assert "access-control-allow-origin" not in stranger.headers
        for root in (base, f"{base}/models-here"):  # proxies take the path off, or do not
            assert httpx.get(f"{root}/health").status_code == 200
            assert httpx.get(f"{root}/info").status_code == 401
            refused = httpx.post(f"{root}/v1/completions", json={"prompt": "a"}, headers=origin)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
            assert refused.headers["access-control-allow-origin"] == origin["origin"]
            key = {"authorization": "Bearer key-one-1"}
            wrong = httpx.post(f"{root}/v1/completions", json={"prompt": "a", "suffix": "b"}, headers=key)
            assert wrong.json()["error"]["param"] == "suffix"
            assert httpx.post(f"{root}/v1/completions", json={"prompt": "a"}, headers=key).status_code == 200
        document = httpx.get(f"{base}/openapi.json", headers=key).json()
        assert document["servers"] == [{"url": "/models-here"}]


def test_reloads_by_signal_and_broken_files(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "pair"
    shutil.copytree(folder, own)
    server = start_server(own)
    try:
        right, first = ask(server).json()["generated_text"], server.info()["models"][0]
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, server) for _ in range(30)]
            server.process.send_signal(signal.SIGHUP)
            assert {each.result().status_code for each in asked} == {200}
        wait_for(lambda: "reloaded pair" in server.log)
        assert ask(server).json()["generated_text"] == right
        assert server.info()["models"][0]["fingerprint"] == first["fingerprint"]
        (own / "config.json").write_text("{")
        refused = httpx.post(f"{server.url}/admin/reload", timeout=60)
        assert refused.status_code == 400 and "the old one goes on" in refused.text
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.log.count("cannot reload") >= 2)
        assert ask(server).json()["generated_text"] == right and server.get("/ready")
        shutil.copy(folder / "config.json", own / "config.json")
        server.kill()  # leaves no lock
        again = start("serve", own, "--port", server.url.rsplit(":", 1)[1])
        wait_for(lambda: is_well(server.url), 300)
        again.terminate()
        again.communicate(timeout=60)
        assert again.returncode == 0
    finally:
        server.kill()


def is_well(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_lets_a_stream_end(folder: Path) -> None:
    server = start_server(folder)
    lines: list[str] = []
    body = {"inputs": "a b c", "parameters": {"max_new_tokens": 60, "min_new_tokens": 60, "details": True}}
    with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if not lines:
                server.process.terminate()
            lines += [line] if line else []
    assert json.loads(lines[-1].removeprefix("data:"))["details"]["generated_tokens"] == 60
    assert server.stop() == 0
