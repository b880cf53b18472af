"""transformers' vision encoders, and its joined vision models."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)

from oracle import build_config, randomise


def vit(width: int = 20, seed: int = 3) -> Any:
    """A tiny ViT of pictures of 8 x 8, which become 16 patches."""
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 37}
    config = ViTConfig(hidden_size=width, image_size=8, patch_size=2, **sizes)
    config._attn_implementation = "eager"
    model = ViTModel(config, add_pooling_layer=False)
    randomise(model, seed)
    return model.eval()


def vision_pair(key: str, folder: Path) -> Any:
    """transformers' pair of a ViT and a decoder, whose decoder half is saved to a folder."""
    decoder_config = build_config(key, is_decoder=True, add_cross_attention=True)
    encoder, decoder = vit(), AutoModelForCausalLM.from_config(decoder_config)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder_config)
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder, config=config)
    randomise(model.decoder, 5)
    model.decoder.save_pretrained(folder)
    return model.eval()


@torch.no_grad()
def vision_logits(model: Any, pixel_values: Tensor, decoder_input_ids: Tensor) -> Tensor:
    """What it computes of pictures and the beginnings of targets."""
    return model(pixel_values=pixel_values, decoder_input_ids=decoder_input_ids, use_cache=False).logits
