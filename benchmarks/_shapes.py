"""Joined models of well-known shapes, random, made by transformers and read by conjoin from the same file."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    RobertaConfig,
)

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def build(name: str, seed: int = 0) -> Any:
    """transformers' model of a shape, random, in evaluation mode, that never ends by itself."""
    torch.manual_seed(seed)
    match name:
        case "bert-base x bert-base":
            model = _pair(BertConfig(), BertConfig())
        case "roberta-base x gpt2":
            model = _pair(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1), GPT2Config())
        case "MiniLM-L6 x MiniLM-L6":
            model = _pair(BertConfig(**MINILM), BertConfig(**MINILM))
        case "bart-base":
            model = BartForConditionalGeneration(_bart())
        case "tiny":
            tiny = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
            model = _pair(BertConfig(vocab_size=1000, **tiny), BertConfig(vocab_size=1000, **tiny))
        case _:
            raise ValueError(f"no shape {name!r}")
    return model.eval()


def save(name: str, folder: Path, seed: int = 0) -> Any:
    """Build, save and return it."""
    model = build(name, seed)
    model.save_pretrained(folder)
    return model


def _pair(encoder: Any, decoder: Any) -> Any:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    model = EncoderDecoderModel(config=config)
    model.generation_config.decoder_start_token_id, model.generation_config.pad_token_id = 1, 0
    model.generation_config.eos_token_id, model.generation_config.bos_token_id = 2, None
    return model


def _bart() -> BartConfig:
    return BartConfig(
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        forced_eos_token_id=None,
    )


SHAPES = ("bert-base x bert-base", "roberta-base x gpt2", "bart-base", "MiniLM-L6 x MiniLM-L6")
