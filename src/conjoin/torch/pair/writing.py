"""Writing torch parameters under the names that transformers reads."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.checkpoint import NameTable, Staging, parse_size, replacing_folder, write_tensors
from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig, Role, family
from conjoin.torch.pair.pretrained import plain_state


def save_half(
    model: nn.Module,
    config: PretrainedConfig,
    stack: spec.StackSpec,
    role: Role,
    folder: str | PathLike[str],
    max_shard_size: int | str,
) -> None:
    """Write one half as a standalone checkpoint."""
    if stack.states:
        raise ConfigError(
            "This encoder lacks its last layer, which no decoder layer reads, so it is no checkpoint of its own.",
            hint="save the pair: model.save_pretrained(folder).",
        )
    record = family(config.model_type)
    architecture = record.encoder_architecture if role == "encoder" else record.decoder_architecture
    written = config.copy(architectures=[architecture] if architecture else None, dtype=dtype_name(model))
    cross = stack.blocks[0].cross_attn
    if stack.merges_source:  # alone it is the language model that it was
        written.add_cross_attention = False
    if cross is not None and record.decoder == "grafted":
        written.cross_attention_hidden_size = cross.source_size
    if cross is not None and cross.gated:
        written.update({"conjoin": {"cross_attention_init": "zero_gate"}})
    with replacing_folder(Path(folder)) as staging:
        write_state(staging, plain_state(model), record.names(stack, role, config), max_shard_size)
        staging.path("config.json").write_text(written.to_json_string(), encoding="utf-8")


def write_state(staging: Staging, state: dict[str, Tensor], table: NameTable, max_shard_size: int | str) -> None:
    """Write parameters with canonical names under the names of a table."""
    write_tensors(staging, _stored(state, table), max_shard_bytes=parse_size(max_shard_size))


def _stored(state: dict[str, Tensor], table: NameTable) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield the name, array and dtype of every tensor of the checkpoint."""
    for undo in table.undo(state):
        tensor = undo(*(state[name].detach().cpu() for name in undo.canonical)).contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
        yield undo.name, bits.numpy(), dtype


def dtype_name(model: nn.Module) -> str:
    """Return the dtype of the parameters as config.json spells it."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")
