"""Writing models: canonical parameters under the names that transformers reads."""

from dataclasses import replace
from os import PathLike
from pathlib import Path

from torch import Tensor

from conjoin import spec
from conjoin.checkpoint import Staging, replacing_folder
from conjoin.configuration import EncoderDecoderConfig, Share
from conjoin.errors import WeightError, listing
from conjoin.families import PretrainedConfig
from conjoin.join import is_quantized, pair_names, shared_names
from conjoin.torch.model.sharing import still_shared
from conjoin.torch.pair.lora import base_parameters, remove_adapter, write_adapter
from conjoin.torch.pair.modules import PairModules
from conjoin.torch.pair.pretrained import plain_state
from conjoin.torch.pair.quantization import write_quantized
from conjoin.torch.pair.writing import dtype_name, write_state


def save_pair(
    model: PairModules,
    folder: str | PathLike[str],
    *,
    max_shard_size: int | str,
    untied: bool,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write a joined pair as one checkpoint.

    Args:
        state: As in `write_pair`.
    """
    if state is not None:
        _check_names(state, plain_state(model))
    with replacing_folder(Path(folder)) as staging:
        write_pair(model, staging, max_shard_size=max_shard_size, untied=untied, state=state)


def _check_names(state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise WeightError(
            f"state_dict: {len(missing)} parameters missing, {len(unknown)} unknown:\n{listing(missing + unknown)}",
            hint="give model.state_dict().",
        )


def write_pair(
    model: PairModules,
    staging: Staging,
    *,
    max_shard_size: int | str = "5GB",
    untied: bool = False,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write a joined pair into a staging folder; other files in it are left alone.

    Args:
        state: Parameters by canonical name in place of the model's own, which may be sharded, with adapters merged;
            without them, adapters are written beside the weights.
    """
    if state is None:
        write_adapter(model, staging)
        state = base_parameters(model)
    else:
        remove_adapter(staging)
        state = dict(state)
    config = model.config_to_save(dtype_name(model), state)
    pair = loosen(config, model.spec, state)
    if untied and isinstance(config, EncoderDecoderConfig):
        config.share, pair = "none", replace(pair, share="none")
    if is_quantized(config):
        write_quantized(model, staging, max_shard_size, pair)
    else:
        for name in shared_names(pair):
            del state[f"decoder.{name}"]
        write_state(staging, state, pair_names(config, pair), max_shard_size)
    model.save_settings(staging, config)


def loosen(config: PretrainedConfig, pair: spec.PairSpec, state: dict[str, Tensor]) -> spec.PairSpec:
    """Return the pair with the sharing that the tensors really have, and correct the config."""
    head, decoder_config = pair.decoder.head, config.decoder if isinstance(config, EncoderDecoderConfig) else config
    if head is not None and head.tied and not decoder_config.tie_word_embeddings:
        decoder_config.tie_word_embeddings = True  # peft sets it to False after merging, but the head is still tied
    shared = still_shared(pair, state)
    if len(shared) == len(shared_names(pair)):
        return pair
    share: Share = "embeddings" if {*shared_names(replace(pair, share="embeddings"))} <= {*shared} else "none"
    if isinstance(config, EncoderDecoderConfig):
        config.share = share
    else:
        config.update({"conjoin": {"share": share}})
    return replace(pair, share=share)
