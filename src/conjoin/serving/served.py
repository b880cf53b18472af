"""A loaded model behind its engine: takes requests from the event loop, as many as the gate lets in."""

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from conjoin.checkpoint import fingerprints, resolve
from conjoin.evaluation.texts import source_limit
from conjoin.serving import reading
from conjoin.serving.limits import Gate, Limits
from conjoin.serving.measure import measure_rows, memory_share, warm_up
from conjoin.serving.refusal import Kind, Refusal, invalid
from conjoin.serving.request import Request
from conjoin.serving.running import Running
from conjoin.serving.settings import ServeSettings
from conjoin.tokenizer.multilingual import speaks


class Served:
    """A model that takes requests.

    Args:
        place: Folder or hub id.
        model: An EncoderDecoderModel in eval mode.
        max_rows, max_cache_bytes: Of the engine.
        pairs: Languages that it translates, where its tokenizers know none.

    Attributes:
        counts: Numbers for /metrics: of requests by their end, tokens, cut sources.
    """

    def __init__(
        self,
        name: str,
        place: str,
        model: Any,
        settings: ServeSettings,
        *,
        max_rows: int,
        max_cache_bytes: int,
    ) -> None:
        from conjoin.torch.generation.engine import Engine

        self.name, self.place, self.model = name, place, model
        self.limits: Limits = settings.limits
        self.pairs = [pair for pair, served in settings.pairs.items() if served == name]
        self.gate = Gate(settings.max_queue, settings.max_queue_characters)
        self.engine = Engine(model, max_rows=max_rows, max_bytes=max_cache_bytes)
        self.engine.__enter__()
        self.running: set[Running] = set()
        self.loaded = time.time()
        self.last_used = time.monotonic()
        self.fingerprint = _fingerprint(place)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix=f"conjoin-read-{name}")

    @property
    def retry_after_s(self) -> float:
        """Seconds after which places are likely to be free."""
        return max(1.0, min(60.0, self.engine.backlog_seconds / 2))

    @property
    def is_idle(self) -> bool:
        """True if nothing runs or waits."""
        return not self.gate.taken

    async def start(self, requests: Sequence[Request], client: str) -> list[Running]:
        """Reserve places for requests, read their texts and hand them to the engine.

        Raises:
            Refusal: the queue is full, or a request cannot be honoured; then none of them runs.
        """
        if len(requests) > self.limits.inputs:
            raise invalid(f"{len(requests)} inputs; this server takes at most {self.limits.inputs}.", "inputs")
        for request in requests:
            self.limits.check(request)
            self._check_languages(request)
        size = sum(request.size for request in requests)
        self.gate.enter(len(requests), size, self.retry_after_s)
        started: list[Running] = []
        left = list(requests)
        try:
            for request in requests:
                started.append(await self._start(request, client))
                left.pop(0)
        except BaseException:
            self.gate.leave(len(left), sum(request.size for request in left))
            for running in started:
                running.cancel()
            raise
        return started

    async def _start(self, request: Request, client: str) -> Running:
        arrived = asyncio.get_running_loop().time()
        submitted = self._pool.submit(self._read, request, client)
        try:
            prompt, handle, warnings = await asyncio.shield(asyncio.wrap_future(submitted))
        except asyncio.CancelledError:
            if not submitted.cancel():  # it is being read, so its handle must still be given up
                submitted.add_done_callback(_give_up)
            raise
        timeout = min(request.timeout_s or self.limits.timeout_s, self.limits.timeout_s)
        running = Running(
            self.model,
            request,
            prompt,
            handle,
            warnings=warnings,
            timeout_s=timeout,
            arrived=arrived,
            on_done=self._leave,
        )
        self.running.add(running)
        if running.is_done:
            self._leave(running)
        return running

    def _read(self, request: Request, client: str) -> tuple[reading.Prompt, Any, tuple[str, ...]]:
        prompt = reading.read(self.model, request, self.limits)
        return (prompt, *reading.submit(self.engine, prompt, request, client))

    def _leave(self, running: Running) -> None:
        if running in self.running:
            self.running.discard(running)
            self.gate.leave(1, running.request.size)
            self.last_used = time.monotonic()

    def _check_languages(self, request: Request) -> None:
        source, target = request.languages
        if source is None and target is None:
            return
        tokenizer = self.model.tokenizer
        if speaks(getattr(tokenizer, "target", tokenizer), "target"):
            return
        if not any(source in (None, a) and target in (None, b) for a, b in self.pairs):
            known = ", ".join(f"{a} to {b}" for a, b in self.pairs) or "none: see --translate"
            raise invalid(f"{source} to {target} is not served; languages of {self.name}: {known}.", "src_lang")

    def stop(self) -> None:
        """Give up what runs, and end the engine's thread."""
        for running in list(self.running):
            running.give_up(Refusal(Kind.UNAVAILABLE, "The server stops."))
        self.engine.close()
        self._pool.shutdown(wait=False)

    async def drain(self, seconds: float) -> None:
        """Wait until what runs is done, so many seconds at most."""
        end = time.monotonic() + seconds
        while self.gate.taken and time.monotonic() < end:
            await asyncio.sleep(0.02)

    def card(self) -> dict[str, Any]:
        """Return what /info tells of the model."""
        spec, tokenizer = self.model.spec, self.model.tokenizer
        config = self.model.generation_config
        return {
            "id": self.name,
            "fingerprint": self.fingerprint,
            "loaded": int(self.loaded),
            "encoder": type(self.model.encoder.config).__name__.removesuffix("Config"),
            "decoder": type(self.model.decoder.config).__name__.removesuffix("Config"),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "max_source_tokens": source_limit(self.model, self.limits.source_tokens),
            "max_target_tokens": spec.decoder.max_positions,
            "layers": spec.decoder.num_layers,
            "heads": spec.decoder.blocks[0].self_attn.attention.num_heads,
            "tokenizer": type(getattr(tokenizer, "source", tokenizer)).__name__,
            "target_tokenizer": type(getattr(tokenizer, "target", tokenizer)).__name__,
            "max_rows": self.engine.max_rows,
            "max_cache_bytes": self.engine.max_bytes,
            "languages": [list(pair) for pair in self.pairs],
            "generation": {name: value for name, value in config.set_values().items() if _is_plain(value)},
        }


def load(name: str, place: str, settings: ServeSettings) -> Served:
    """Load a model, warm it up and measure how many rows run together well. Blocks; call it in a thread.

    Raises:
        ConjoinError: the model cannot be loaded.
    """
    from conjoin import EncoderDecoderModel

    model: Any = EncoderDecoderModel.from_pretrained(place, dtype=settings.dtype, device=settings.device)
    model.eval()
    if settings.int8:
        model = model.quantize()
    model.tokenizer  # noqa: B018  # raises NoTokenizerError
    warm_up(model)
    rows = settings.max_rows or measure_rows(model, settings.step_ms / 1000)
    room = settings.max_cache_bytes or memory_share(len(settings.models))
    return Served(name, place, model, settings, max_rows=rows, max_cache_bytes=room)


def _give_up(submitted: "Future[Any]") -> None:
    """Cancel what was submitted after its client had left."""
    if not submitted.cancelled() and submitted.exception() is None:
        submitted.result()[1].cancel()


def _fingerprint(place: str) -> str:
    told = json.dumps(fingerprints(resolve(place)), sort_keys=True, default=str)
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | list)
