"""What does a server gain by letting requests join and leave a running batch?

    python benchmarks/serve.py                                 # bert-base x bert-base and bart-base: half an hour
    python benchmarks/serve.py --model FOLDER                  # a trained model, such as the demo's
    python benchmarks/serve.py --shapes bart-base --seconds 20 --out benchmarks/results/DATE_MACHINE_serve.md

Servers run one at a time, on loopback, each a process of its own; the load comes from this process. Weights are random,
but results end by themselves, at lengths spread as those of sentences (`_natural.py`). Opponents (`_serve_peers.py`):
one request at a time, the best of several static windows, and a window before CTranslate2 where it can hold the model.

- saturation: clients that ask again as soon as they are answered, more of them than rows; in rounds, interleaved
- one client alone: its median beside that of `generate` in a process, over the same texts
- bursts: open loop at 70 % of our own saturation, arrivals in groups, every twentieth client leaves
- overload: open loop at ten times it; every request must be answered 200, 429 or 504
"""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `conjoin serve` has it; for the peers, too

import torch
from _harness import machine, report, scratch
from _natural import bart_base, bert_base, end_naturally, texts_of, word_tokenizer
from _peers import convert
from _serve_load import Load, closed, median_ms, one_by_one, open_loop

from conjoin import EncoderDecoderModel
from conjoin.tokenizer import TokenizerPair

HERE = Path(__file__).parent
BERT = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
BART = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>"}


def main() -> int:
    """Measure."""
    args = _args()
    torch.set_num_threads(args.threads)
    facts = {"question": "serve", "machine": machine(), "threads": args.threads, "clients": args.clients}
    report(facts)
    lines: list[dict[str, Any]] = []
    with scratch() as folder:
        for name in args.shapes if args.model is None else [str(args.model)]:
            model_folder, texts = _model(name, Path(folder), args.texts, args.model)
            for line in _measure(name, model_folder, texts, args):
                report(line)
                lines.append(line)
                if args.out:
                    _write(args.out, facts, lines)
    return 0


def _model(name: str, scratch_folder: Path, count: int, own: Path | None) -> tuple[Path, list[str]]:
    """Return a model's folder and sources for it."""
    if own is not None:
        rows = [json.loads(line) for line in (own.parent / "unseen.jsonl").read_text("utf-8").splitlines()]
        return own, [row["source"] for row in rows][:count]
    folder, texts = scratch_folder / name, texts_of(count)
    if name == "bert-base":
        model = bert_base()
        tokenizer = word_tokenizer(scratch_folder / "words", BERT)
    else:
        model = bart_base()
        names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        names |= {"mask_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        tokenizer = word_tokenizer(scratch_folder / "words-bart", BART, **names)
    lengths = end_naturally(model, [tokenizer(text)["input_ids"] for text in texts])
    report({"shape": name, "result_tokens": {"median": statistics.median(lengths), "most": max(lengths)}})
    model.save_pretrained(folder)
    TokenizerPair(tokenizer, tokenizer).save_pretrained(folder)
    if name == "bart-base":
        convert(folder, folder / "ctranslate2")
    return folder, texts


def _measure(name: str, folder: Path, texts: list[str], args: Any) -> Iterator[dict[str, Any]]:
    ours = _ours(folder, args)
    peers = {"one at a time": _peer("alone", folder, args)}
    best = _best_window(folder, texts, args)
    peers[f"window of {best[0]}, {best[1]:g} ms"] = _peer("window", folder, args, *best)
    if (folder / "ctranslate2").exists():
        peers[f"ctranslate2, window of {best[0]}, {best[1]:g} ms"] = _peer("ctranslate2", folder, args, *best)
    loads: dict[str, list[Load]] = {contender: [] for contender in ("conjoin serve", *peers)}
    for _ in range(args.rounds):
        for contender, command in {"conjoin serve": ours, **peers}.items():
            with _server(command) as port:
                loads[contender].append(_saturate(port, texts, args))
    yield from _saturation(name, loads)
    with _server(ours) as port:
        yield {"shape": name, "row": "one client alone", **_alone(port, folder, texts[: args.alone])}
        rate = statistics.median(load.rate for load in loads["conjoin serve"])
        for row, factor, more in (("bursts", 0.7, {"bursts": True, "leaving": 0.05}), ("overload x10", 10.0, {})):
            load = asyncio.run(open_loop(port, texts, rate=factor * rate, seconds=args.seconds, **more))
            sent = sum(load.statuses.values())
            lost = {status: count for status, count in load.statuses.items() if status not in (200, 429, 504, -1)}
            yield {
                "shape": name,
                "row": row,
                "rate": round(factor * rate, 1),
                "sent": sent,
                "lost": lost,
                **load.record(),
            }


def _saturation(name: str, loads: dict[str, list[Load]]) -> Iterator[dict[str, Any]]:
    ours = loads["conjoin serve"]
    right = {text: answer for load in ours for text, answer in load.texts.items()}
    for contender, rounds in loads.items():
        ratios = [mine.rate / theirs.rate for mine, theirs in zip(ours, rounds, strict=True) if theirs.rate]
        same = [right.get(text) == answer for load in rounds for text, answer in load.texts.items() if text in right]
        middle = sorted(rounds, key=lambda load: load.rate)[len(rounds) // 2]
        yield {
            "shape": name,
            "row": "saturation",
            "contender": contender,
            **middle.record(),
            "ours_over_it": round(statistics.median(ratios), 2) if ratios else None,
            "same_texts": round(sum(same) / len(same), 3) if same else None,
        }


def _best_window(folder: Path, texts: list[str], args: Any) -> tuple[int, float]:
    """Return the size and milliseconds of the fastest static window."""
    if len(args.windows) == 1:
        return args.windows[0], 20.0
    rates: dict[tuple[int, float], float] = {}
    for window in ((size, 20.0) for size in args.windows):
        with _server(_peer("window", folder, args, *window)) as port:
            rates[window] = _saturate(port, texts, args).rate
    report({"windows": {f"{size} in {ms:g} ms": round(rate, 2) for (size, ms), rate in rates.items()}})
    return max(rates, key=lambda window: rates[window])


def _saturate(port: int, texts: list[str], args: Any) -> Load:
    return asyncio.run(closed(port, texts, clients=args.clients, seconds=args.seconds, warm_up=args.warm_up))


def _alone(port: int, folder: Path, texts: list[str]) -> dict[str, Any]:
    """Return medians of one client and of `generate`, over the same texts, in turns."""
    model: Any = EncoderDecoderModel.from_pretrained(folder).eval()
    direct: list[float] = []
    served: list[float] = []
    for text in (texts[0], *texts):
        served += asyncio.run(one_by_one(port, [text]))
        begun = time.perf_counter()
        batch = model.tokenizer([text], truncation=True, max_length=512, return_tensors="pt")
        ids = model.generate(batch.input_ids)
        model.tokenizer.batch_decode(ids, skip_special_tokens=True)
        direct.append(time.perf_counter() - begun)
    more = [mine - theirs for mine, theirs in zip(served[1:], direct[1:], strict=True)]
    return {"served_ms": median_ms(served[1:]), "generate_ms": median_ms(direct[1:]), "more_ms": median_ms(more)}


def _ours(folder: Path, args: Any) -> list[str]:
    return [
        "-m",
        "conjoin",
        "serve",
        str(folder),
        "--threads",
        str(args.threads),
        "--max-queue",
        "256",
        "--timeout",
        "60",
    ]


def _peer(kind: str, folder: Path, args: Any, size: int = 1, window_ms: float = 0.0) -> list[str]:
    window = ["--size", str(size), "--window-ms", str(window_ms)]
    return [str(HERE / "_serve_peers.py"), kind, str(folder), "--threads", str(args.threads), *window]


@contextlib.contextmanager
def _server(command: list[str]) -> Iterator[int]:
    """Run a server; gives its port once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    try:
        end = time.monotonic() + 300
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{shlex.join(command)} did not start")
            time.sleep(0.2)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    body = json.dumps({"inputs": "w1000 w1001"}).encode()
    headers = {"content-type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/generate", body, headers), timeout=60
        ):
            return True
    except OSError:
        return False


def _write(out: Path, facts: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Write the page of results."""
    command = shlex.join(["python", "benchmarks/serve.py", *sys.argv[1:]])
    parts = ["# Serving\n", f"    {command}\n", f"```json\n{json.dumps(facts, indent=1)}\n```\n"]
    parts.append("| shape | row | contender | requests/s | p50 ms | p95 ms | ours over it | same texts | more |")
    parts.append("|---|---|---|---|---|---|---|---|---|")
    known = {"shape", "row", "contender", "requests_per_s", "p50_ms", "p95_ms", "ours_over_it", "same_texts"}
    for line in lines:
        more = ", ".join(f"{name} {value}" for name, value in line.items() if name not in known)
        cells = [line.get(name, "") for name in ("shape", "row", "contender", "requests_per_s", "p50_ms", "p95_ms")]
        cells += [line.get("ours_over_it", ""), line.get("same_texts", ""), more]
        parts.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    out.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _args() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["bert-base", "bart-base"], choices=["bert-base", "bart-base"])
    parser.add_argument("--model", type=Path, help="a saved model; sources are unseen.jsonl beside it")
    parser.add_argument("--texts", type=int, default=96, help="different sources")
    parser.add_argument("--clients", type=int, default=48, help="at saturation")
    parser.add_argument("--seconds", type=float, default=25, help="of each load")
    parser.add_argument("--warm-up", type=float, default=8, help="seconds of each load that do not count")
    parser.add_argument("--windows", type=int, nargs="+", default=[16, 32, 64], help="static ones; the fastest counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=int, default=24, help="requests of the client alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
