"""The oracle of the generation tests: transformers' own processors, criteria, streamers and GenerationConfig."""

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import logits_process, stopping_criteria, streamers, watermarking

transformers.utils.logging.set_verbosity(logging.CRITICAL)


def processor(name: str, *arguments: Any, **keywords: Any) -> Any:
    """transformers' processor of that name."""
    return getattr(logits_process, name)(*arguments, **keywords)


def criterion(name: str, *arguments: Any, **keywords: Any) -> Any:
    """transformers' stopping criterion of that name."""
    return getattr(stopping_criteria, name)(*arguments, **keywords)


def streamer(name: str, *arguments: Any, **keywords: Any) -> Any:
    """transformers' streamer of that name."""
    return getattr(streamers, name)(*arguments, **keywords)


def config(**values: Any) -> GenerationConfig:
    """transformers' GenerationConfig."""
    return GenerationConfig(**values)


def config_fields() -> set[str]:
    """Every setting that transformers' GenerationConfig has."""
    return {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}


def config_defaults() -> dict[str, Any]:
    """What transformers fills in."""
    return GenerationConfig._get_default_generation_params()


def load_config(folder: Path) -> GenerationConfig:
    """Read generation_config.json with transformers."""
    return GenerationConfig.from_pretrained(str(folder))


def plan_names(settings: dict[str, Any], prompt_length: int, source_ids: Tensor, prefix_fn: Any) -> list[str]:
    """Class names of the processors that transformers' generate makes for these settings, in order."""
    chosen = GenerationConfig(**settings)
    chosen.update(**GenerationConfig._get_default_generation_params(), defaults_only=True)
    ends = chosen.eos_token_id
    chosen._eos_token_tensor = None if ends is None else torch.tensor([ends] if isinstance(ends, int) else ends)
    model = SimpleNamespace(
        config=SimpleNamespace(is_encoder_decoder=True, get_text_config=lambda: SimpleNamespace(vocab_size=53)),
    )
    model._merge_criteria_processor_list = GenerationMixin._merge_criteria_processor_list.__get__(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = GenerationMixin._get_logits_processor(
            model,
            generation_config=chosen,
            input_ids_seq_length=prompt_length,
            encoder_input_ids=source_ids,
            prefix_allowed_tokens_fn=prefix_fn,
            logits_processor=logits_process.LogitsProcessorList(),
            device="cpu",
            model_kwargs={},
        )
    return [type(each).__name__ for each in made]


def green_share(ids: Tensor, vocab_size: int, **settings: Any) -> Tensor:
    """Share of green tokens that transformers' detector finds."""
    shape = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=vocab_size), is_encoder_decoder=True)
    shape.vocab_size, shape.decoder_start_token_id = vocab_size, -1
    wanted = transformers.WatermarkingConfig(**settings)
    detector = watermarking.WatermarkDetector(shape, device="cpu", watermarking_config=wanted)
    return detector(ids, return_dict=True).green_fraction


def generate(model: Any, input_ids: Tensor | None, **settings: Any) -> Any:
    """transformers' own generate, its warnings silenced."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(input_ids, **settings)


def transition_scores(model: Any, *arguments: Any, **keywords: Any) -> Tensor:
    """transformers' compute_transition_scores."""
    return model.compute_transition_scores(*arguments, **keywords)
