"""Settings of models: config.json and generation_config.json."""

from pathlib import Path
from random import Random

from conjoin import GenerationConfig
from fuzz.models import SOURCE, TARGET, use_pair, write_pair
from fuzz.mutators import change_json
from fuzz.runner import Kind

_CONFIG = (
    *SOURCE.to_dict(),
    *TARGET.to_dict(),
    "model_type",
    "encoder",
    "decoder",
    "quantization_config",
    "torch_dtype",
    "dtype",
    "architectures",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "decoder_start_token_id",
    "conjoin",
    "rope_scaling",
    "num_beams",
    "max_length",
    "id2label",
    "cross_attention_hidden_size",
    "add_cross_attention",
    "auto_map",
)
_GENERATION = tuple(GenerationConfig.__annotations__)


def _change_config(folder: Path, draw: Random) -> None:
    change_json(folder / "config.json", draw, words=_CONFIG, bytes_share=0.05)


def _change_generation_config(folder: Path, draw: Random) -> None:
    change_json(folder / "generation_config.json", draw, words=_GENERATION, bytes_share=0.05)


KINDS = (
    Kind("config", write_pair, _change_config, use_pair),
    Kind("generation_config", write_pair, _change_generation_config, use_pair),
)
