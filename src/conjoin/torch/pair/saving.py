"""Writing models: canonical parameters back under the names that transformers reads."""

from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.checkpoint import NameTable, Staging, parse_size, replacing_folder, write_tensors
from conjoin.configuration import EncoderDecoderConfig, Share
from conjoin.errors import WeightError, listing
from conjoin.families import PretrainedConfig, Role, family
from conjoin.join import pair_names, shared_names
from conjoin.pretrained import without_generation_words
from conjoin.torch.cpu.quantization import is_quantized, write_quantized
from conjoin.torch.model.sharing import still_shared
from conjoin.torch.pair.keywords import refuse_saving_words
from conjoin.torch.pair.pretrained import plain_state

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel


class Saves:
    """A joined model that can be written to disk."""

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        untied: bool = False,
        **keywords: Any,
    ) -> None:
        """Write config, weights and tokenizers, atomically: a killed save leaves the old folder or the new one.

        transformers reads the result wherever it can hold such a pair.

        Args:
            is_main_process: False writes nothing.
            state_dict: Parameters in place of the model's own, by the names of `model.state_dict()`.
            untied: Write shared parameters under both halves' names, so that transformers reads them as copies.
            keywords: Of transformers' method. save_function has no effect; others must be as they are by default.

        Raises:
            FileError: the folder cannot be written.
            WeightError: state_dict lacks parameters, or has others.
        """
        refuse_saving_words(keywords)
        if is_main_process:
            model = cast("EncoderDecoderModel", self)
            save_pair(model, save_directory, max_shard_size=max_shard_size, untied=untied, state=state_dict)


def save_half(
    model: nn.Module,
    config: PretrainedConfig,
    stack: spec.StackSpec,
    role: Role,
    folder: str | PathLike[str],
    max_shard_size: int | str,
) -> None:
    """Write one half as a standalone checkpoint."""
    made = family(config.model_type)
    architecture = made.encoder_architecture if role == "encoder" else made.decoder_architecture
    written = config.copy(architectures=[architecture] if architecture else None, dtype=dtype_name(model))
    cross = stack.blocks[0].cross_attn
    if cross is not None and made.decoder == "grafted":
        written.cross_attention_hidden_size = cross.source_size
    if cross is not None and cross.gated:
        written.update({"conjoin": {"cross_attention_init": "zero_gate"}})
    with replacing_folder(Path(folder)) as staging:
        write_state(staging, plain_state(model), made.names(stack, role), max_shard_size)
        staging.path("config.json").write_text(written.to_json_string(), encoding="utf-8")


def write_state(staging: Staging, state: dict[str, Tensor], table: NameTable, max_shard_size: int | str) -> None:
    """Write parameters, by canonical name, under the names of a table."""
    write_tensors(staging, _stored(state, table), max_shard_bytes=parse_size(max_shard_size))


def _stored(state: dict[str, Tensor], table: NameTable) -> Iterator[tuple[str, np.ndarray, str]]:
    for undo in table.undo(state):
        tensor = undo(*(state[name].detach().cpu() for name in undo.canonical)).contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
        yield undo.name, bits.numpy(), dtype


def dtype_name(model: nn.Module) -> str:
    """The parameters' dtype as config.json spells it."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def save_pair(
    model: "EncoderDecoderModel",
    folder: str | PathLike[str],
    *,
    max_shard_size: int | str,
    untied: bool,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write a joined pair as one checkpoint.

    Args:
        state: As `write_pair` has it.
    """
    if state is not None:
        _check_names(state, plain_state(model))
    with replacing_folder(Path(folder)) as staging:
        write_pair(model, staging, max_shard_size=max_shard_size, untied=untied, state=state)


def _check_names(given: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    missing, foreign = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or foreign:
        raise WeightError(
            f"state_dict: {len(missing)} parameters missing, {len(foreign)} unknown:\n{listing(missing + foreign)}",
            hint="give model.state_dict().",
        )


def write_pair(
    model: "EncoderDecoderModel",
    staging: Staging,
    *,
    max_shard_size: int | str = "5GB",
    untied: bool = False,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write a joined pair into a folder that is being filled, beside whatever else goes there.

    Args:
        state: Parameters by canonical name in place of the model's own, which may be sharded.
    """
    state = plain_state(model) if state is None else dict(state)
    config = without_generation_words(model.config)
    config.dtype = dtype_name(model)
    pair = loosen(config, model.spec, state)
    if isinstance(config, EncoderDecoderConfig):
        config.architectures = ["EncoderDecoderModel"]
        if untied:
            config.share, pair = "none", replace(pair, share="none")
        config.fresh = model.fresh_record(state)
    elif whole := family(config.model_type).whole:
        config.architectures = [whole.architecture]
    if is_quantized(config):
        write_quantized(model, staging, max_shard_size, pair)
    else:
        for name in shared_names(pair):
            del state[f"decoder.{name}"]
        write_state(staging, state, pair_names(config, pair), max_shard_size)
    model.save_tokenizers(staging)
    model.save_generation_config(staging)
    staging.path("config.json").write_text(config.to_json_string(), encoding="utf-8")


def loosen(config: PretrainedConfig, pair: spec.PairSpec, state: dict[str, Tensor]) -> spec.PairSpec:
    """The pair as it is: sharing no more than what is one tensor under two names still. The config is set right."""
    head, speaks = pair.decoder.head, config.decoder if isinstance(config, EncoderDecoderConfig) else config
    if head is not None and head.tied and not speaks.tie_word_embeddings:
        speaks.tie_word_embeddings = True  # peft denies it after merging; the head reads the decoder's table as before
    held = still_shared(pair, state)
    if len(held) == len(shared_names(pair)):
        return pair
    share: Share = "embeddings" if "embed.words.weight" in held else "none"
    if isinstance(config, EncoderDecoderConfig):
        config.share = share
    else:
        config.update({"conjoin": {"share": share}})
    return replace(pair, share=share)
