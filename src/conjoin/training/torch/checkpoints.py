"""Checkpoints of a run: model, optimizer, average, random states and progress, in one folder that appears whole."""

import random
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from conjoin.checkpoint import Staging, has_adapter, read_json, replacing_folder, write_json
from conjoin.errors import FileError, TrainingError, shown, warn
from conjoin.torch.cpu.linear_grad import as_products, fastest_products, use_products
from conjoin.torch.pair.foreign import ForeignPair
from conjoin.torch.pair.lora import base_parameters, has_adapters, read_adapter
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.torch.pair.pretrained import plain_state
from conjoin.training.folder.moments import Moments, open_moments, write_moments
from conjoin.training.folder.pieces import Stored
from conjoin.training.folder.run_folder import STATE_FILE
from conjoin.training.folder.state import DamagedCheckpoint, TrainerState
from conjoin.training.torch.sharding import copy_into, whole_state
from conjoin.training.torch.shards import save_shards, staged_by_all, stored
from conjoin.training.torch.trained import TrainedModel
from conjoin.training.torch.world import World

RANDOM_FILE = "random.pt"
SCALE_FILE = "loss_scale.json"
PRODUCTS_FILE = "products.json"
"""Which library computes which product on a CPU: it was measured, and another choice rounds differently."""


def save_checkpoint(trained: TrainedModel, folder: Path, state: TrainerState) -> None:
    """Write the checkpoint of a step, whole or not at all; every process must call it."""
    states = trained.world.gather(random_state(trained.world))
    write = _write_sharded if trained.arguments.fsdp != "none" else _write_whole
    write(trained, folder, states, state)


def _write_whole(trained: TrainedModel, folder: Path, states: list[Any], state: TrainerState) -> None:
    def write() -> None:
        with replacing_folder(folder) as staging:
            trained.model.write(staging)
            write_moments(staging, _moments(trained))
            if trained.arguments.fp16:
                write_json(staging / SCALE_FILE, trained.scaler.state_dict())
            _save_beside(trained, staging, states, state)

    trained.world.on_first(write)


def _write_sharded(trained: TrainedModel, folder: Path, states: list[Any], state: TrainerState) -> None:
    weights = whole_state(trained.model, trained.world)
    with staged_by_all(trained.world, folder) as staging:
        save_shards(trained, Path(staging))
        if isinstance(staging, Staging):
            trained.model.write(staging, weights)
            _save_beside(trained, staging, states, state)


def _save_beside(trained: TrainedModel, staging: Staging, states: list[Any], state: TrainerState) -> None:
    """Write the files of a checkpoint other than weights and moments."""
    if trained.world.device.type == "cpu":
        write_json(staging / PRODUCTS_FILE, asdict(fastest_products()))
    _save(staging, RANDOM_FILE, states)
    write_json(staging / STATE_FILE, state.to_dict())


def _moments(trained: TrainedModel) -> Moments:
    """Return AdamW's state by name; parameters that had no update yet have none."""
    states = trained.optimizing.optimizer.state
    held = {name: states[parameter] for name, parameter in trained.parameters.items() if parameter in states}
    average = None if trained.average is None else trained.average.shadow
    return Moments(
        updates={name: int(held[name]["step"]) if name in held else 0 for name in trained.parameters},
        first={name: stored(state["exp_avg"]) for name, state in held.items()},
        second={name: stored(state["exp_avg_sq"]) for name, state in held.items()},
        average=None if average is None else {name: stored(tensor) for name, tensor in average.items()},
    )


def _tensor(saved: Stored) -> Tensor:
    array, dtype = saved
    return torch.from_numpy(array).view(getattr(torch, dtype))


def _save(staging: Staging, name: str, value: Any) -> None:
    try:
        torch.save(value, staging / name)
    except RuntimeError as error:  # which torch raises for a full disk
        raise FileError(f"{name} cannot be written: {str(error).partition(chr(10))[0]}.") from error


def restore_checkpoint(trained: TrainedModel, folder: Path, step: int) -> None:
    """Load a checkpoint; if it has no random states, as of another framework, they are seeded by its step.

    Raises:
        TrainingError: it does not fit, or cannot be read.
    """
    load_weights(trained.model, folder)
    _restore_optimizer(trained, folder)
    if trained.world.device.type == "cpu" and (folder / PRODUCTS_FILE).is_file():
        _adopt_products(folder / PRODUCTS_FILE)
    states = read_random_states(folder / RANDOM_FILE) if (folder / RANDOM_FILE).is_file() else []
    if len(states) == trained.world.size:
        set_random_state(states[trained.world.rank])
    else:
        seed_all(trained.arguments.seed + step, trained.world)


def _restore_optimizer(trained: TrainedModel, folder: Path) -> None:
    """Load the optimizer's state, whichever kind of run wrote it."""
    kinds = {name: (tuple(p.shape), str(p.dtype).removeprefix("torch.")) for name, p in trained.parameters.items()}
    with open_moments(folder, kinds, averaged=trained.average is not None) as saved:
        adopt(trained, saved)
        if trained.average is not None and saved.average is not None:
            with torch.no_grad():
                for name, tensor in trained.average.shadow.items():
                    copy_into(tensor, _tensor(saved.average[name]))
    if trained.arguments.fp16 and (folder / SCALE_FILE).is_file():
        trained.scaler.load_state_dict(read_scale(folder / SCALE_FILE))


@torch.no_grad()
def adopt(trained: TrainedModel, saved: Moments) -> None:
    """Copy the moments of a file into the optimizer, whose settings stay; sharded parameters get their rows."""
    states: Any = trained.optimizing.optimizer.state
    states.clear()
    for name in saved.first:
        parameter = trained.parameters[name]
        first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        copy_into(first, _tensor(saved.first[name]))
        copy_into(second, _tensor(saved.second[name]))
        step = torch.tensor(float(saved.updates[name]), device=parameter.device)
        states[parameter] = {"step": step, "exp_avg": first, "exp_avg_sq": second}


def _adopt_products(path: Path) -> None:
    """Compute every product as the run did before, whatever was measured here."""
    saved = read_json(path)
    try:
        products = as_products(saved)
    except ValueError as error:
        raise DamagedCheckpoint(f"{path}: {shown(saved)}; {error}.") from None
    if lacking := use_products(products):
        warn(
            f"The run computed {', '.join(lacking)} of its linear layers in a way that this machine lacks (oneDNN, or "
            "a compiler for our kernels); it goes on, but rounds differently from here on."
        )


def read_scale(path: Path) -> dict[str, Any]:
    """Read the loss scale of a float16 run.

    Raises:
        DamagedCheckpoint: it is something else.
    """
    found = read_json(path)
    numbers = ("scale", "growth_factor", "backoff_factor")
    counts = ("growth_interval", "_growth_tracker")
    for name in (*numbers, *counts):
        value: Any = found.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        good = whole and 0 <= value < 1 << 31 if name in counts else whole or isinstance(value, float)
        if not good or not (name in counts or 1e-30 <= value <= 1e30):
            raise DamagedCheckpoint(f"{path}: {name} = {shown(value)}; expected a number above 0.")
    if odd := sorted(set(found) - {*numbers, *counts}):
        raise DamagedCheckpoint(f"{path}: {shown(odd[0])} is nothing that the scale of a loss has.")
    return found


def load_weights(model: EncoderDecoderModel, folder: Path) -> None:
    """Copy a saved model's weights into a model."""
    apart = has_adapters(model)
    if apart and not has_adapter(folder):
        raise TrainingError(f"{folder} holds no adapter, and the run trains one.", hint="leave --lora as it was.")
    if isinstance(model, ForeignPair):
        if why := model.unlike(folder):
            raise TrainingError(
                f"{folder} holds another model than the one to be trained. {why}",
                hint="resume with the run's own model, around such a module as it was trained with.",
            )
        model.read(folder)
    else:
        _copy_weights(model, folder, merge_adapter=not apart)
    if apart:
        read_adapter(model, folder)


def _copy_weights(model: EncoderDecoderModel, folder: Path, *, merge_adapter: bool) -> None:
    saved = plain_state(EncoderDecoderModel.from_pretrained(folder, dtype=model.dtype, merge_adapter=merge_adapter))
    ours = base_parameters(model)
    if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in saved.items()}:
        raise TrainingError(
            f"{folder} holds another model than the one to be trained.", hint="resume with the run's own model."
        )
    with torch.no_grad():
        for name, tensor in ours.items():
            copy_into(tensor, saved[name])


def read_random_states(path: Path) -> list[dict[str, Any]]:
    """Read the random states of every process. torch.save wrote the file; only plain values in it are accepted.

    Raises:
        DamagedCheckpoint: it is something else, or generators would not take it.
    """
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, UnpicklingError) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}.") from error
    if not isinstance(found, list):
        raise DamagedCheckpoint(f"{path}: holds {type(found).__name__}, expected a list, one entry per process.")
    for rank, state in enumerate(cast("list[Any]", found)):
        if odd := _odd_generator(state):
            raise DamagedCheckpoint(f"{path}: {odd} of process {rank} is no state of a generator.")
    return cast("list[dict[str, Any]]", found)


_WORDS = 624
"""Length of a Mersenne twister's state."""


def _odd_generator(state: Any) -> str | None:
    """Return the name of a generator whose state is invalid: numpy does not check, and would read beyond its memory."""
    if not isinstance(state, dict):
        return "what stands for the generators"
    held = cast("dict[str, Any]", state)
    match held.get("python"):
        case (3, tuple(), None | float()) if _are_words(held["python"][1][:-1]) and _is_place(held["python"][1][-1]):
            pass
        case _:
            return "python"
    match held.get("numpy"):
        case ("MT19937", list(), place, 0 | 1, int() | float()) if _are_words(held["numpy"][1]) and _is_place(place):
            pass
        case _:
            return "numpy"
    for name in ("torch", *(["cuda"] if "cuda" in held else [])):
        tensor = held.get(name)
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8 or tensor.dim() != 1:
            return name
    try:
        torch.Generator().set_state(held["torch"])
    except (RuntimeError, TypeError):
        return "torch"
    return None


def _are_words(words: Any) -> bool:
    return len(words) == _WORDS and all(type(word) is int and 0 <= word < 1 << 32 for word in words)


def _is_place(place: Any) -> bool:
    return type(place) is int and 0 <= place <= _WORDS


def random_state(world: World) -> dict[str, Any]:
    """Return the state of every generator that training may use."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, cast("Any", keys).tolist(), position, has_gauss, gauss),
    }
    return found | ({"cuda": torch.cuda.get_rng_state(world.device)} if world.device.type == "cuda" else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state of every generator."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        try:
            torch.cuda.set_rng_state(state["cuda"])
        except RuntimeError as error:
            raise DamagedCheckpoint(f"{RANDOM_FILE}: the state of cuda is none: {error}.") from error


def seed_all(seed: int, world: World) -> None:
    """Seed every generator, differently in each process, or all would drop the same units."""
    torch.manual_seed(seed * world.size + world.rank)
    random.seed(seed)
    np.random.seed(seed % 2**32)
