"""Minimal servers to race against, each a process of its own: `python _serve_peers.py KIND FOLDER --port P ...`.

    alone        one request after another through `generate`
    window       requests that arrive within a window are one batch for `generate`, which starts and ends together
    ctranslate2  the same window before CTranslate2's Translator

They read {"inputs": text} and answer {"generated_text": text}, without any manners: as little work as HTTP allows.
"""

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):
    import ctranslate2  # before PyTorch: see cpu.py
import torch
import uvicorn


class Window:
    """Gathers requests for at most some milliseconds, or until a batch is full."""

    def __init__(self, run: Any, size: int, window_ms: float) -> None:
        self.run, self.size, self.window = run, size, window_ms / 1000
        self.queue: asyncio.Queue[tuple[str, asyncio.Future[str]]] = asyncio.Queue()

    async def ask(self, text: str) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.queue.put((text, future))
        return await future

    async def serve(self) -> None:
        while True:
            batch = [await self.queue.get()]
            end = asyncio.get_running_loop().time() + self.window
            while len(batch) < self.size:
                left = end - asyncio.get_running_loop().time()
                try:
                    batch.append(
                        self.queue.get_nowait() if left <= 0 else await asyncio.wait_for(self.queue.get(), left)
                    )
                except (TimeoutError, asyncio.QueueEmpty):
                    break
            results = await asyncio.to_thread(self.run, [text for text, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


def by_conjoin(folder: Path, settings: dict[str, Any]) -> Any:
    """Return a function from texts to targets: one call of `generate`."""
    from conjoin import EncoderDecoderModel

    model: Any = EncoderDecoderModel.from_pretrained(folder).eval()

    def run(texts: list[str]) -> list[str]:
        batch = model.tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        ids = model.generate(batch.input_ids, attention_mask=batch.attention_mask, **settings)
        return model.tokenizer.batch_decode(ids, skip_special_tokens=True)

    return run


def by_ctranslate2(folder: Path, settings: dict[str, Any], threads: int) -> Any:
    """Return a function from texts to targets: one call of a Translator."""
    from conjoin import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer = getattr(tokenizer, "source", tokenizer)
    translator: Any = ctranslate2.Translator(
        str(folder / "ctranslate2"), device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
    )

    def run(texts: list[str]) -> list[str]:
        sources = [[f"w{token}" for token in ids] for ids in tokenizer(texts)["input_ids"]]
        results = translator.translate_batch(
            sources, beam_size=settings.get("num_beams", 1), max_decoding_length=settings.get("max_new_tokens", 128)
        )
        special = {f"w{token}" for token in tokenizer.all_special_ids}
        return [" ".join(word for word in result.hypotheses[0] if word not in special) for result in results]

    return run


async def respond(ask: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    answer = json.dumps({"generated_text": await ask(json.loads(body)["inputs"])}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["alone", "window", "ctranslate2"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--window-ms", type=float, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", type=json.loads, default={})
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.kind == "ctranslate2":
        run = by_ctranslate2(args.folder, args.settings, args.threads)
    else:
        run = by_conjoin(args.folder, args.settings)
    run(["w1000 w1001"])
    window = Window(run, 1 if args.kind == "alone" else args.size, args.window_ms)
    tasks: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if not tasks:
            tasks.append(asyncio.create_task(window.serve()))
        await respond(window.ask, receive, send)

    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", lifespan="off", http="h11")


if __name__ == "__main__":
    main()
