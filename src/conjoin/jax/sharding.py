"""A model over several devices: batches over the axis "data", matrices over the axis "model".

One table of rules speaks of the logical axes that the spec gives every parameter, so it holds for all families.
XLA puts in the communication (Xu et al. 2021, arXiv:2105.04663).
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from conjoin import spec
from conjoin.errors import ShapeError
from conjoin.jax.params import ParameterModel
from conjoin.jax.training import TrainState, parameter_table
from conjoin.spec.parameters import Axis

Rules = Mapping[Axis, str]

TENSOR_PARALLEL: Rules = {"heads": "model", "kv_heads": "model", "mlp": "model", "vocab": "model"}
"""q, k, v, gate and up by output, o and down by input (Shoeybi et al. 2019, arXiv:1909.08053)."""

FULLY_SHARDED: Rules = {**TENSOR_PARALLEL, "hidden": "data"}
"""And every matrix over the data axis too, so that no device holds a whole one (ZeRO, arXiv:1910.02054)."""


def make_mesh(*, data: int = -1, model: int = 1) -> Mesh:
    """Devices in a grid with the axes "data" and "model".

    Args:
        data: Parts of the batch; -1 takes as many as devices allow.

    Raises:
        ShapeError: the devices do not fill the grid.
    """
    count = jax.device_count()
    data = count // model if data == -1 else data
    if data * model > count or data * model < 1:
        raise ShapeError(f"A mesh of {data} x {model} needs {data * model} devices; there are {count}.")
    devices = cast("list[Any]", jax.devices())[: data * model]
    return Mesh(np.array(devices).reshape(data, model), ("data", "model"))


def param_shardings(model: ParameterModel, mesh: Mesh, rules: Rules = TENSOR_PARALLEL) -> dict[str, NamedSharding]:
    """Where every parameter lies. An axis that a mesh axis does not divide, or whose heads it would cut, is whole."""
    table = parameter_table(model)
    return {name: NamedSharding(mesh, _partition(model, name, kind, mesh, rules)) for name, kind in table.items()}


def _partition(model: ParameterModel, name: str, kind: spec.Parameter, mesh: Mesh, rules: Rules) -> PartitionSpec:
    used: set[str] = set()
    parts: list[str | None] = []
    for axis, size in zip(kind.axes, kind.shape, strict=True):
        wanted = rules.get(axis)
        units = _heads(model, name, axis) or size
        fits = wanted is not None and wanted not in used and units % mesh.shape[wanted] == 0
        parts.append(wanted if fits else None)
        used |= {wanted} if fits and wanted is not None else set()
    return PartitionSpec(*parts)


def _heads(model: ParameterModel, name: str, axis: Axis) -> int | None:
    """Heads that an axis consists of; None for other axes."""
    if axis not in ("heads", "kv_heads"):
        return None
    side, *rest = name.split(".")
    stack = model.spec.encoder if side == "encoder" else model.spec.decoder
    block = stack.blocks[int(rest[1]) if rest[0] == "blocks" else 0]
    cross = block.cross_attn.attention if block.cross_attn is not None else None
    attention = cross if cross is not None and "cross_attn" in rest else block.self_attn.attention
    return attention.num_heads if axis == "heads" else attention.num_kv_heads


def shard_params(model: ParameterModel, mesh: Mesh, rules: Rules = TENSOR_PARALLEL) -> None:
    """Put a model's parameters on a mesh; calls and generate run on it from here on."""
    where = param_shardings(model, mesh, rules)
    model.params = {name: jax.device_put(value, where[name]) for name, value in model.flat_params.items()}


def shard_state(model: ParameterModel, state: TrainState, mesh: Mesh, rules: Rules = TENSOR_PARALLEL) -> TrainState:
    """Put a training state on a mesh; what the optimizer keeps of a parameter lies where the parameter does."""
    where, whole = param_shardings(model, mesh, rules), NamedSharding(mesh, PartitionSpec())

    def place(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        found = where.get(keys[-1]) if keys else None
        alike = found is not None and value.ndim == len(found.spec)
        return jax.device_put(value, found if alike else whole)

    return jax.tree_util.tree_map_with_path(place, state)


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Put a batch on a mesh, its rows spread over the data axis.

    Raises:
        ShapeError: rows that the axis does not divide.
    """
    parts = mesh.shape["data"]
    wrong = [f"{name}: {len(value)} rows" for name, value in batch.items() if len(value) % parts]
    if wrong:
        raise ShapeError(f"The batch does not split into {parts} equal parts: {', '.join(wrong)}.")
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.device_put(np.asarray(value), rows) for name, value in batch.items()}
