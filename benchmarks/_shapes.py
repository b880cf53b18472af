"""Random joined models of well-known shapes, made by transformers and loaded by conjoin from the same file."""

import re
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

import conjoin

MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


LIVELY = re.compile(r"layers?\.\d+\.(fc1|fc2|intermediate\.dense|output\.dense)\.weight$|position")


def build(name: str, seed: int = 0) -> Any:
    """Return transformers' model of a shape, random, in evaluation mode, which never ends by itself."""
    torch.manual_seed(seed)
    match name:
        case "bert-base x bert-base":
            model = _pair(BertConfig(), BertConfig())
        case "roberta-base x gpt2":
            model = _pair(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1), GPT2Config())
        case "MiniLM-L6 x MiniLM-L6":
            model = _pair(BertConfig(**MINILM), BertConfig(**MINILM))
        case "4 layers of 256":
            small: dict[str, Any] = {
                "vocab_size": 2000,
                "hidden_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "intermediate_size": 1024,
            }
            model = _pair(BertConfig(**small), BertConfig(**small))
        case "bart-base":
            model = BartForConditionalGeneration(_bart())
        case "tiny":
            tiny: dict[str, Any] = {
                "hidden_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 512,
            }
            model = _pair(BertConfig(vocab_size=1000, **tiny), BertConfig(vocab_size=1000, **tiny))
        case "bart-tiny":
            model = BartForConditionalGeneration(_bart(128, 2, 2, 512, vocab_size=1000))
        case "bart, 4 layers of 256":
            model = BartForConditionalGeneration(_bart(256, 4, 4, 1024, vocab_size=8000))
        case "bart, 6 layers of 384":
            model = BartForConditionalGeneration(_bart(384, 6, 6, 1536, vocab_size=8000))
        case "bart, 6 layers of 512":
            model = BartForConditionalGeneration(_bart(512, 6, 8, 2048, vocab_size=8000))
        case "bart, 2 layers of 64":
            model = BartForConditionalGeneration(_bart(64, 2, 2, 256, vocab_size=8000))
        case _:
            raise ValueError(f"no shape {name!r}")
    return model.eval()


def minilm_smollm2(*, is_small: bool = False, seed: int = 0) -> conjoin.EncoderDecoderModel:
    """Return a random MiniLM -> SmolLM2-135M pair, which transformers' classes cannot hold."""
    torch.manual_seed(seed)
    encoder = conjoin.BertConfig(**({**MINILM, "num_hidden_layers": 2, "vocab_size": 1000} if is_small else MINILM))
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49152}
    if is_small:
        sizes = {"hidden_size": 72, "num_hidden_layers": 2, "intermediate_size": 144, "vocab_size": 1000}
    decoder = conjoin.LlamaConfig(num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, **sizes)
    ids = {"decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
    config = conjoin.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids)
    model = conjoin.EncoderDecoderModel(config=config)
    config.fresh = []
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2)  # so that tokens vary
    return model


def save(name: str, folder: Path, seed: int = 0, *, lively: bool = False) -> Any:
    """Build a model, save it and return it.

    Args:
        lively: Scale up MLPs and positions, so that the generated tokens vary (20 different of 32 on bart-base).
            Without this, a tied model repeats its first token, and comparing tokens would tell little.
    """
    model = build(name, seed)
    if lively:
        _enliven(model)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def _enliven(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if LIVELY.search(name):
            parameter.mul_(4)


def _pair(encoder: Any, decoder: Any) -> Any:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    model = EncoderDecoderModel(config=config)
    model.generation_config.decoder_start_token_id, model.generation_config.pad_token_id = 1, 0
    model.generation_config.eos_token_id, model.generation_config.bos_token_id = 2, None
    return model


def _bart(width: int = 768, layers: int = 6, heads: int = 12, inner: int = 3072, **changes: Any) -> BartConfig:
    return BartConfig(
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        forced_eos_token_id=None,
        **changes,
    )


SHAPES = ("bert-base x bert-base", "roberta-base x gpt2", "bart-base", "MiniLM-L6 x MiniLM-L6")
