"""Actors of Ray that share a run: `conjoin generate --ray`."""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import conjoin
from conjoin.bulk.messages import Model, answer_of, error_of, outcomes_of, raise_error
from conjoin.bulk.pool import Pool, WorkerDied
from conjoin.bulk.spec import WorkerSpec
from conjoin.bulk.starting import start_model
from conjoin.errors import ConjoinError, MissingBackend
from conjoin.evaluation.texts import Outcome

LOCAL = "local"
"""In place of an address: a Ray of the run's own, on this machine, which ends with it."""
_REACH_SECONDS = 10.0
"""Ray itself asks an address that nobody listens on for ten minutes."""
_STORE_BYTES = 128 * 1024**2
"""Memory for objects in a Ray of the run's own; a batch has kilobytes."""


class Actors:
    """Actors that share a run.

    Attributes:
        limit: Tokens of a source at most, once an actor has loaded the model; None if there is no limit.

    Args:
        spec: What each is to do.
        count: How many there are. They share the CPUs and GPUs of the cluster.
        address: "local", "auto" for the cluster that this machine belongs to, or an address that `ray.init` takes.
    """

    def __init__(self, spec: WorkerSpec, count: int, address: str) -> None:
        self._spec, self._count, self._address = spec, count, address
        self.limit: int | None = None

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[list[Outcome]]:
        """Generate for sources; see `Pool.run`.

        Raises:
            MissingBackend: Ray is not installed.
            ConjoinError: the cluster cannot be reached, or has too few CPUs.
        """
        ray = _ray()
        was_running = bool(ray.is_initialized())
        if not was_running:
            _connect(ray, self._address, self._count)
        try:
            options = _share(ray.cluster_resources(), self._count)
            actor = ray.remote(**options, max_restarts=0)(_Model)

            def start(number: int) -> "_Actor":
                worker = _Actor(ray, actor.remote(replace(self._spec, number=number).to_dict()))
                self.limit = worker.limit
                return worker

            yield from Pool(start, self._count, self._spec.settings.batch_size).run(texts)
        finally:
            if not was_running:
                ray.shutdown()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise MissingBackend("--ray needs Ray: pip install 'conjoin[ray]'") from None


def _connect(ray: Any, address: str, count: int) -> None:
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        from conjoin.torch.cpu.threads import usable_threads

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        paths = [str(Path(conjoin.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        options |= {
            "num_cpus": max(count, usable_threads()),
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        _reach(address)
        ray.init(**options)
    except Exception as error:  # it raises errors of many libraries
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConjoinError(
            f"Ray at {address!r} cannot be used: {reason}",
            hint="the address of a cluster's head is HOST:6379, or ray://HOST:10001 for Ray Client.",
        ) from error


def _reach(address: str) -> None:
    """Raise OSError if nobody listens on an address that names a host and a port."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is not None and parts.port is not None:
        with socket.create_connection((parts.hostname, parts.port), timeout=_REACH_SECONDS):
            pass


def _share(resources: dict[str, float], count: int) -> dict[str, float]:
    """Return the CPUs and GPUs of each actor."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if cpus < count:
        raise ConjoinError(f"The Ray cluster has {cpus:g} CPUs for {count} workers.", hint="ask for fewer --workers.")
    share = {"num_cpus": float(int(cpus // count))}
    if gpus:
        share["num_gpus"] = 1.0 if gpus >= count else gpus / count
    return share


class _Model:
    """What runs in an actor: Ray sets its threads to its CPUs."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._model: Model | None = None
        self._start: dict[str, Any] = {"limit": None}
        try:
            model = start_model(WorkerSpec.from_dict(spec))
            self._model, self._start = model, {"limit": model.limit}
        except Exception as error:
            self._start = error_of(error)

    def start(self) -> dict[str, Any]:
        """Return the longest source, or why the model could not be loaded."""
        return self._start

    def generate(self, texts: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Return the answer for sources."""
        assert self._model is not None
        return answer_of(self._model, texts)


class _Actor:
    """An actor as a worker of a pool."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray, self._handle = ray, handle
        started = self._get(handle.start.remote())
        try:
            raise_error(started)
        except BaseException:
            self.close()
            raise
        self.limit: int | None = started["limit"]

    def generate(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of sources, and warnings.

        Raises:
            WorkerDied: the actor ended.
            ConjoinError, RuntimeError: its error.
        """
        return outcomes_of(self._get(self._handle.generate.remote([list(pair) for pair in texts])))

    def close(self) -> None:
        """End the actor, in whatever it does."""
        self._ray.kill(self._handle)

    def _get(self, reference: Any) -> dict[str, Any]:
        errors = import_module("ray.exceptions")
        try:
            return self._ray.get(reference)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            raise WorkerDied(f"An actor of Ray ended: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400]
