"""The oracle with fewer layers: transformers' models whose layers were taken out of their lists by hand."""

from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import oracle
from oracle_tiny import MADE_CAUSAL_FAMILIES, model_type

Kind = Literal["base", "causal", "whole"]
_CLASSES: dict[Kind, Any] = {"base": AutoModel, "causal": AutoModelForCausalLM, "whole": AutoModelForSeq2SeqLM}


def save_deep(key: str, kind: Kind, folder: Path, **changes: Any) -> Any:
    """Save a random model of a TINY key with other values in its config, such as more layers."""
    causal = {"is_decoder": True} if kind == "causal" and model_type(key) in MADE_CAUSAL_FAMILIES else {}
    model = _CLASSES[kind].from_config(oracle.build_config(key, **changes, **causal))
    oracle.randomise(model, 0)
    model.eval().save_pretrained(folder)
    return model


def drop_layers(model: nn.Module, place: str, kept: list[int]) -> None:
    """Keep some layers of the list at a place in a model."""
    parent, _, name = place.rpartition(".")
    owner = model.get_submodule(parent)
    layers = getattr(owner, name)
    setattr(owner, name, nn.ModuleList(layers[i] for i in kept))
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        if (types := getattr(config, "layer_types", None)) and len(types) == len(layers):
            config.layer_types = [types[i] for i in kept]
            config.num_hidden_layers = len(kept)
