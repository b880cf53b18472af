"""Load on a server, over loopback: closed loop (who is answered asks again), open loop, clients that leave."""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Load:
    """What came back.

    Args:
        latencies: Seconds of each request that was answered with 200.
        statuses: HTTP status -> count; 0 for a connection that broke, -1 for a client that left on purpose.
        seconds: Of what is counted: from the first request to the last answer, or in a closed loop the time in which
            every client was busy.
        texts: Source -> its answer.
    """

    latencies: list[float] = field(default_factory=list[float])
    statuses: dict[int, int] = field(default_factory=dict[int, int])
    seconds: float = 0.0
    texts: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def rate(self) -> float:
        """Answers with 200 per second."""
        return self.statuses.get(200, 0) / self.seconds if self.seconds else 0.0

    def quantile(self, share: float) -> float:
        """Latency that this share of the answered requests stays below, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def record(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "requests_per_s": round(self.rate, 2),
            "p50_ms": round(1000 * self.quantile(0.5), 1),
            "p95_ms": round(1000 * self.quantile(0.95), 1),
            "p99_ms": round(1000 * self.quantile(0.99), 1),
            "statuses": dict(sorted(self.statuses.items())),
        }


async def ask(port: int, text: str, load: Load, *, settings: Any = None, leave_after: float | None = None) -> None:
    """Send one request on a connection of its own, and note what came of it."""
    fields = {"inputs": text, **({"parameters": settings} if settings else {})}
    body = json.dumps(fields).encode()
    head = f"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    begun, status = time.perf_counter(), 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
            answer = await asyncio.wait_for(reader.read(), leave_after)
        except TimeoutError:
            status = -1
            return
        finally:
            writer.close()
        start, _, content = answer.partition(b"\r\n\r\n")
        status = int(start.split(b" ", 2)[1])
        if status == 200:
            load.latencies.append(time.perf_counter() - begun)
            load.texts[text] = json.loads(content)["generated_text"]
    except (OSError, IndexError, ValueError):
        status = 0
    finally:
        load.statuses[status] = load.statuses.get(status, 0) + 1


async def closed(
    port: int, texts: Sequence[str], *, clients: int, seconds: float, warm_up: float, settings: Any = None
) -> Load:
    """Let clients ask one request after another for so many seconds.

    What is answered during the warm-up, in which all of them begin at once, and after the end, when fewer and fewer
    are busy, does not count.
    """
    load, outside, begun, turn = Load(), Load(), time.perf_counter(), iter(range(10**9))
    end = begun + warm_up + seconds

    async def client() -> None:
        while time.perf_counter() < end:
            one = Load()
            await ask(port, texts[next(turn) % len(texts)], one, settings=settings)
            into = load if begun + warm_up <= time.perf_counter() < end else outside
            into.latencies += one.latencies
            load.texts |= one.texts
            for status, count in one.statuses.items():
                into.statuses[status] = into.statuses.get(status, 0) + count

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = seconds
    return load


async def open_loop(
    port: int,
    texts: Sequence[str],
    *,
    rate: float,
    seconds: float,
    leaving: float = 0.0,
    bursts: bool = False,
    seed: int = 0,
    settings: Any = None,
) -> Load:
    """Send requests at random moments, whatever has become of earlier ones.

    Args:
        rate: Requests per second on average (a Poisson process).
        leaving: Share of clients that leave before they are answered.
        bursts: Arrive in groups of 1 to 8.
    """
    chance, load, tasks = random.Random(seed), Load(), list[asyncio.Task[None]]()
    begun, at, number = time.perf_counter(), 0.0, 0
    while at < seconds:
        group = chance.randint(1, 8) if bursts else 1
        at += chance.expovariate(rate / (4.5 if bursts else 1))
        await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
        for _ in range(group):
            leave = chance.uniform(0.01, 1.0) if chance.random() < leaving else None
            text = texts[number % len(texts)]
            tasks.append(asyncio.create_task(ask(port, text, load, settings=settings, leave_after=leave)))
            number += 1
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - begun
    return load


async def one_by_one(port: int, texts: Sequence[str]) -> list[float]:
    """Return the seconds of requests that one client sends, each when the one before is answered."""
    seconds: list[float] = []
    for text in texts:
        load = Load()
        await ask(port, text, load)
        seconds += load.latencies
    return seconds


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return round(1000 * statistics.median(seconds), 2)
