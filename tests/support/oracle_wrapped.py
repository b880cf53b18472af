"""Multimodal models of transformers around a tiny text model, saved as their files are named now and were."""

from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

import oracle

__all__ = ["LAYOUTS", "WRAPPED", "Layout", "logits", "save_wrapped", "text_model"]

WRAPPED = {"gemma3": "gemma3_text", "mistral3": "mistral/full"}
"""model_type -> TINY key of its text part."""
VISION: dict[str, dict[str, Any]] = {
    "gemma3": {"model_type": "siglip_vision_model", "image_size": 28, "num_channels": 3},
    "mistral3": {"model_type": "pixtral", "head_dim": 6, "image_size": 28},
}
SIZES = {
    "hidden_size": 10,
    "intermediate_size": 9,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 7,
}
Layout = Literal["as saved", "language_model.model", "model.language_model"]
LAYOUTS: tuple[Layout, ...] = ("as saved", "language_model.model", "model.language_model")


def save_wrapped(kind: str, folder: Path, layout: Layout = "as saved", **changes: Any) -> Any:
    """Save a random multimodal model.

    Args:
        layout: Where the text part stands: as transformers 5 writes it, as files up to 4.51 have it, or as models of
            later versions name it.
        changes: Fields of the whole config.
    """
    key = WRAPPED[kind]
    text = {"model_type": oracle.model_type(key), **oracle.TINY[key]}
    config = AutoConfig.for_model(
        kind, text_config=text, vision_config={**VISION[kind], **SIZES}, image_token_index=10, **changes
    )
    config._attn_implementation = "eager"
    model = AutoModelForImageTextToText.from_config(config)
    oracle.randomise(model, 0)
    model.eval().save_pretrained(folder)
    file = folder / "model.safetensors"
    if layout != "as saved":
        save_file({_renamed(name, layout): tensor for name, tensor in load_file(file).items()}, file)
    return model


def _renamed(name: str, layout: Layout) -> str:
    for prefix in ("language_model.model.", "model.language_model."):
        if name.startswith(prefix):
            return f"{layout}.{name.removeprefix(prefix)}"
    if name.endswith("lm_head.weight"):
        return "language_model.lm_head.weight" if layout == "language_model.model" else "lm_head.weight"
    plain = name.removeprefix("model.")
    return plain if layout == "language_model.model" else f"model.{plain}"


def text_model(model: Any) -> Any:
    """The text part, without its head."""
    return model.model.language_model


def logits(model: Any, batch: oracle.Batch) -> Any:
    """What the whole model says of a text."""
    return oracle.decoder_logits(model, batch["decoder_input_ids"], batch["decoder_attention_mask"])
