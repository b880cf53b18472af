"""Writing models: canonical parameters back under the names that transformers reads; the files that PyTorch writes."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from conjoin import spec
from conjoin.checkpoint import NameTable, Staging, parse_size, write_tensors
from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import PretrainedConfig, family
from conjoin.join import pair_names, shared_names
from conjoin.pretrained.dtypes import as_bits
from conjoin.pretrained.settings import without_generation_words


class Savable(Protocol):
    """What is written of a model beside its parameters."""

    config: PretrainedConfig
    spec: spec.PairSpec

    def save_tokenizers(self, staging: Staging) -> None: ...
    def save_generation_config(self, staging: Staging) -> None: ...
    def fresh_record(self, parameters: Mapping[str, np.ndarray]) -> list[str]: ...


def write_pair(
    model: Savable,
    staging: Staging,
    arrays: dict[str, np.ndarray],
    *,
    max_shard_size: int | str = "5GB",
    untied: bool = False,
) -> None:
    """Write a joined pair into a folder that is being filled, beside whatever else goes there.

    Args:
        arrays: Every parameter, shared ones under every name.
    """
    arrays = dict(arrays)
    config = without_generation_words(model.config)
    config.dtype = arrays["decoder.embed.words.weight"].dtype.name
    if isinstance(config, EncoderDecoderConfig):
        config.architectures = ["EncoderDecoderModel"]
        config.share = "none" if untied else config.share
        config.fresh = model.fresh_record(arrays)
    elif whole := family(config.model_type).whole:
        config.architectures = [whole.architecture]
    if not untied or not isinstance(config, EncoderDecoderConfig):
        for name in shared_names(model.spec):
            del arrays[f"decoder.{name}"]
    stored = _stored(arrays, pair_names(model.config, model.spec))
    write_tensors(staging, stored, max_shard_bytes=parse_size(max_shard_size))
    model.save_tokenizers(staging)
    model.save_generation_config(staging)
    staging.path("config.json").write_text(config.to_json_string(), encoding="utf-8")


def _stored(arrays: dict[str, np.ndarray], table: NameTable) -> Iterator[tuple[str, np.ndarray, str]]:
    for undo in table.undo(arrays):
        dtype = arrays[undo.canonical[0]].dtype.name
        # Layouts know bits, not the dtypes that numpy itself lacks.
        yield undo.name, undo(*(as_bits(arrays[name]) for name in undo.canonical)), dtype
