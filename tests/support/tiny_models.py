"""Tiny models from configs alone, joined or whole, their parameters random; and what they learn from a batch."""

from typing import Any

from torch import Tensor

from conjoin import AutoConfig, EncoderDecoderConfig, EncoderDecoderModel
from oracle_tiny import TINY
from pairs import stir

PAIRS = [
    ("bert", "bert/small"),
    ("roberta", "roberta/small"),
    ("bert", "gpt2"),
    ("modernbert", "llama/yarn"),
    ("electra", "mistral"),
    ("albert", "gemma2"),
    ("distilbert/sinusoidal", "opt"),
    ("xlm-roberta", "gemma3_text"),
    ("camembert", "gpt_neox"),
]
WHOLE = ["bart", "mbart", "t5", "t5/gated"]
IDS = {"decoder_start_token_id": 9, "pad_token_id": 3, "eos_token_id": 7}


def config(key: str) -> Any:
    return AutoConfig.from_dict({"model_type": key.split("/", maxsplit=1)[0], **TINY[key]})


def joined(encoder: str, decoder: str) -> EncoderDecoderModel:
    pair = EncoderDecoderConfig.from_encoder_decoder_configs(config(encoder), config(decoder), **IDS)
    return stir(EncoderDecoderModel(config=pair))


def loss_and_gradients(model: EncoderDecoderModel, **given: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**given, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
