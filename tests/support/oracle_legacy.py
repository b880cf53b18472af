"""Saved config.json files rewritten as transformers 4.x wrote them.

4.x had `rope_theta` and `rope_scaling` (`rope_parameters` in 5.x), `torch_dtype` (`dtype`), and per-family patterns
where 5.x has the list `layer_types`. Old checkpoints keep those words for ever, so we must read them.
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["LISTED_FROM_THE_START", "legacy_config"]

LISTED_FROM_THE_START = ("exaone4", "ministral", "olmo3", "smollm3")
"""Families that are younger than `layer_types`, which their files of 4.x have."""

Fields = dict[str, Any]


def legacy_config(folder: Path) -> Fields:
    """Rewrite `folder/config.json`, and the configs of halves inside it, in the words of 4.x; return it."""
    path = Path(folder) / "config.json"
    config = _legacy(json.loads(path.read_text()))
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
    return config


def _legacy(config: Fields) -> Fields:
    old = dict(config)
    for part in ("encoder", "decoder", "text_config"):
        if isinstance(old.get(part), dict):
            old[part] = _legacy(old[part])
    if "dtype" in old:
        old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.46.0"
    match old["model_type"]:
        case "gpt_neox":
            _unfold_neox(old)
        case "glm" | "glm4" | "phi" | "phi3" | "stablelm":
            old["partial_rotary_factor"] = old["rope_parameters"].pop("partial_rotary_factor", 1.0)
            _unfold_rope(old)
        case "modernbert" | "modernbert-decoder":
            _unfold_modernbert(old)
        case "gemma3_text" | "t5gemma2_text" | "t5gemma2_decoder":
            _unfold_gemma3(old)
        case "cohere2":
            old["sliding_window_pattern"] = _period(old.pop("layer_types"), first=1)
            _unfold_rope(old)
        case "gemma2":
            old.pop("layer_types")  # every even layer slides
            _unfold_rope(old)
        case "qwen2" | "qwen3":
            old.pop("layer_types")  # layers from max_window_layers on slide
            _unfold_rope(old)
        case "olmo3":
            rope = old.pop("rope_parameters")["full_attention"]
            old["rope_theta"] = rope.pop("rope_theta")
            old["rope_scaling"] = _scaling(rope)  # of the layers that read everything
        case _:
            _unfold_rope(old)
    return old


def _unfold_rope(old: Fields) -> None:
    if (rope := old.pop("rope_parameters", None)) is None:
        return
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = _scaling(rope)


def _scaling(rope: Fields) -> Fields | None:
    """Say nothing for plain rotation; `type`, older than `rope_type`, for the kinds that are as old."""
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind in ("linear", "dynamic"):
        return {"type": kind, "factor": rope["factor"]}
    return rope


def _unfold_neox(old: Fields) -> None:
    rope = old.pop("rope_parameters")
    old["rotary_emb_base"] = rope.pop("rope_theta")
    old["rotary_pct"] = rope.pop("partial_rotary_factor")
    old["rope_scaling"] = _scaling(rope)


def _unfold_modernbert(old: Fields) -> None:
    rope = old.pop("rope_parameters")
    old["global_rope_theta"] = rope["full_attention"]["rope_theta"]
    old["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
    old["global_attn_every_n_layers"] = _period(old.pop("layer_types"), first=0)
    old.pop("sliding_window", None)


def _unfold_gemma3(old: Fields) -> None:
    rope = old.pop("rope_parameters")
    old["rope_theta"] = rope["full_attention"].pop("rope_theta")
    old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    old["rope_scaling"] = rope["full_attention"]  # published with `rope_type`; 5.23 drops an older `type` here
    old["sliding_window_pattern"] = _period(old.pop("layer_types"), first=1)
    old.pop("_sliding_window_pattern", None)


def _period(layer_types: list[str], first: int) -> int:
    """Return n where layers n·i (first=0) or n·i + n - 1 (first=1) are the global ones."""
    found = [i + first for i, kind in enumerate(layer_types) if kind == "full_attention" and i + first > 0]
    return found[0]
