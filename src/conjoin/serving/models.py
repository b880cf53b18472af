"""The models of a server: loaded in the background, unloaded when idle, replaced without a gap."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Literal

from conjoin.serving.refusal import Kind, Refusal, invalid
from conjoin.serving.served import Served, load
from conjoin.serving.settings import ServeSettings

State = Literal["loading", "ready", "unloaded", "failed"]
_ANY = ("", "dummy")
"""Names that clients send who know none: `InferenceClient` says "dummy"."""
log = logging.getLogger("conjoin.serve")


@dataclass(slots=True)
class Entry:
    """A model by name.

    Args:
        error: Why it could not be loaded.
    """

    name: str
    place: str
    state: State = "loading"
    served: Served | None = None
    error: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Models:
    """All models of a server."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.entries = {name: Entry(name, place) for place, name in settings.named_models}
        self.is_draining = False
        self._old: set[asyncio.Task[None]] = set()

    @property
    def is_ready(self) -> bool:
        """True if requests are taken: every model is loaded, or idle and unloaded, and the server does not stop."""
        return not self.is_draining and all(entry.state in ("ready", "unloaded") for entry in self.entries.values())

    async def load_all(self) -> None:
        """Load every model, one after another."""
        for entry in self.entries.values():
            async with entry.lock:
                if entry.served is None:
                    await self._load(entry)

    def named(self, name: str | None) -> Entry:
        """Return the entry of a name that a client sends.

        Raises:
            Refusal: there is no such model.
        """
        if name is None or name in _ANY:
            return next(iter(self.entries.values()))
        if name not in self.entries:
            known = ", ".join(self.entries)
            raise Refusal(Kind.NOT_FOUND, f"There is no model {name!r}; expected one of: {known}.", field="model")
        return self.entries[name]

    async def get(self, name: str | None) -> Served:
        """Return a model, loading it if it was unloaded.

        Raises:
            Refusal: there is no such model, it is being loaded, it cannot be loaded, or the server stops.
        """
        entry = self.named(name)
        if self.is_draining:
            raise Refusal(Kind.UNAVAILABLE, "The server stops; try another.", retry_after_s=5)
        if entry.served is not None:
            return entry.served
        if entry.state == "loading":  # at the start; a request that wakes an idle model waits for it
            raise Refusal(Kind.UNAVAILABLE, f"{entry.name} is being loaded.", retry_after_s=5)
        before = entry.state
        async with entry.lock:
            if entry.served is None and entry.state == before:  # else another request has tried in the meantime
                await self._load(entry, wakes=before == "unloaded")
        if entry.served is None:
            raise Refusal(Kind.UNAVAILABLE, f"{entry.name} could not be loaded: {entry.error}", retry_after_s=30)
        return entry.served

    async def _load(self, entry: Entry, *, wakes: bool = False) -> None:
        """Load a model.

        Args:
            wakes: It was unloaded because it was idle: requests wait for it, and the server is ready all the while.
        """
        begun = time.monotonic()
        entry.state = entry.state if wakes else "loading"
        try:
            entry.served = await asyncio.to_thread(load, entry.name, entry.place, self.settings)
            entry.state, entry.error = "ready", None
            log.info("loaded %s in %.1f s: %d rows", entry.name, time.monotonic() - begun, entry.served.engine.max_rows)
        except Exception as error:
            entry.state, entry.error = "failed", str(error).split("\n", 1)[0]
            log.error("cannot load %s: %s", entry.name, error)

    async def reload(self, name: str | None = None) -> list[str]:
        """Load the files of a model, or of all, anew beside the old one; swap them, and let the old one finish.

        Returns:
            The names of what was loaded.

        Raises:
            Refusal: it cannot be loaded; the old one goes on.
        """
        entries = list(self.entries.values()) if name is None else [self.named(name)]
        for entry in entries:
            async with entry.lock:
                try:
                    new = await asyncio.to_thread(load, entry.name, entry.place, self.settings)
                except Exception as error:
                    log.error("cannot reload %s: %s", entry.name, error)
                    raise invalid(f"{entry.name} could not be loaded; the old one goes on: {error}", "model") from None
                old, entry.served, entry.state = entry.served, new, "ready"
            log.info("reloaded %s: %s", entry.name, new.fingerprint)
            if old is not None:
                task = asyncio.create_task(self._retire(old))
                self._old.add(task)
                task.add_done_callback(self._old.discard)
        return [entry.name for entry in entries]

    async def _retire(self, served: Served) -> None:
        await served.drain(self.settings.timeout)
        await asyncio.to_thread(served.stop)

    async def unload_idle(self) -> None:
        """Unload models that were idle longer than `ttl`, again and again."""
        while self.settings.ttl > 0:
            await asyncio.sleep(min(1.0, self.settings.ttl / 4))
            for entry in self.entries.values():
                async with entry.lock:
                    served = entry.served
                    if served is None or not served.is_idle:
                        continue
                    if time.monotonic() - served.last_used > self.settings.ttl:
                        entry.served, entry.state = None, "unloaded"
                        await asyncio.to_thread(served.stop)
                        log.info("unloaded %s", entry.name)

    async def stop(self) -> None:
        """Take nothing more, let what runs finish within the grace, and end."""
        self.is_draining = True
        served = [entry.served for entry in self.entries.values() if entry.served is not None]
        await asyncio.gather(*(each.drain(self.settings.grace) for each in served))
        for each in served:
            await asyncio.to_thread(each.stop)
