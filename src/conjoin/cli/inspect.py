"""`conjoin inspect`: describe a checkpoint without loading its weights."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from conjoin import spec
from conjoin.checkpoint import open_checkpoint, resolve
from conjoin.cli.streams import emit
from conjoin.configuration import AutoConfig, EncoderDecoderConfig
from conjoin.errors import plain
from conjoin.families import PretrainedConfig, family
from conjoin.join import (
    QUANTIZED,
    JoinReport,
    half_offer,
    half_spec,
    has_tokenizer,
    is_quantized,
    never_fresh,
    pair_offer,
    pair_spec,
    plan_half,
    plan_join,
    plan_quantized,
    record,
    special_tokens,
    with_record,
)
from conjoin.native.build import wanted_level
from conjoin.spec.native import reason_against
from conjoin.training.settings.recipe import RECIPE_FILE, read_recipe


def inspect_folder(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a pair, or of one half.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what a checkpoint holds: halves, sizes, special tokens, tokenizers, parameters by part, unused tensors."""
    folder = resolve(model)
    config = AutoConfig.from_pretrained(folder)
    report, stacks = _plan(config, folder)
    facts: dict[str, Any] = {
        "folder": str(folder),
        "model_type": config.model_type,
        "quantization": _quantization(config),
        "runs_on": _runs_on(folder, stacks),
        **{role: _facts(stack) for role, stack in stacks.items()},
        "special_tokens": _ids(config),
        "tokenizers": _tokenizers(folder),
        "parameters": {part: count for part, *_, count in report.rows()},
        "fresh": record(report, report.fresh) if isinstance(config, EncoderDecoderConfig) else [],
        "chosen": _chosen(folder),
        "unused": [name for names in report.unused.values() for name in names],
    }
    if as_json:
        emit(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for name, value in facts.items():
        if name not in ("unused", "parameters", "chosen"):
            console.print(f"{name:<16}{_shown(value)}", soft_wrap=True, markup=False)
    console.print(f"{'parameters':<16}{sum(facts['parameters'].values()):,}\n")
    console.print(report)
    if facts["chosen"]:
        console.print("\nChosen by the run that trained it:")
        for name, choice in facts["chosen"].items():
            line = f"{name} = {plain(str(choice['value']))}: {plain(choice['because'])}"
            console.print(f"  {line}", soft_wrap=True, markup=False)


def _chosen(folder: Path) -> dict[str, Any]:
    """Return what the run that wrote a folder chose by itself, with the reasons in its recipe."""
    path = folder / RECIPE_FILE
    recipe = read_recipe(path) if path.is_file() else {}
    reasons: dict[str, str] = recipe.get("reasons", {})
    return {name: {"value": recipe.get(name), "because": reason} for name, reason in reasons.items()}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(str(item))}" for key, item in cast("dict[str, Any]", value).items()) or "none"
    if isinstance(value, list):
        return plain(", ".join(map(str, cast("list[Any]", value)))) or "none"
    return "none" if value is None else plain(str(value))


def _plan(config: PretrainedConfig, folder: Path) -> tuple[JoinReport, dict[str, spec.StackSpec]]:
    """Plan where each parameter comes from, as loading does; raises the same errors."""
    whole = not isinstance(config, EncoderDecoderConfig) and family(config.model_type).whole is not None
    with open_checkpoint(folder) as checkpoint:
        if isinstance(config, EncoderDecoderConfig) or whole:
            pair = pair_spec(config)
            stacks = {"encoder": pair.encoder, "decoder": pair.decoder}
            if is_quantized(config):
                return plan_quantized(pair, checkpoint), stacks
            plan = plan_join(pair, [pair_offer(config, pair, checkpoint)], init="normal", fresh_allowed=never_fresh)
            return with_record(plan, config), stacks
        role = "decoder" if family(config.model_type).encoder in ("bidirectional", None) else "encoder"
        stack = half_spec(config, role)
        return plan_half(stack, half_offer(config, stack, role, checkpoint), role), {role: stack}


def _quantization(config: PretrainedConfig) -> str | None:
    """Return the type of quantised linear layers and LM head; None if they are floats."""
    quantization: Any = getattr(config, "quantization_config", None) or {}
    method = quantization.get("quant_method")
    return "int8" if method == QUANTIZED else method


def _runs_on(folder: Path, stacks: dict[str, spec.StackSpec]) -> str:
    """Return what computes the model's passes on this machine's CPU, and why where it is not our kernels."""
    level = wanted_level()
    if level is None:
        reason = "CONJOIN_NATIVE=0 is set" if os.environ.get("CONJOIN_NATIVE") == "0" else "no kernels and no compiler"
        return f"PyTorch's operators: {reason}"
    with open_checkpoint(folder) as checkpoint:
        dtypes = {info.dtype for info in checkpoint.values()}
    unknown = sorted(dtype for dtype in dtypes & {"float16", "float64"})
    if unknown:
        return f"PyTorch's operators: weights in {' and '.join(unknown)}; load with dtype=float32 or bfloat16"
    lacking = {role: reason for role, stack in stacks.items() if (reason := reason_against(stack))}
    if lacking:
        reasons = " and ".join(f"{reason} ({role})" for role, reason in lacking.items())
        return f"kernels for {level}, and PyTorch's operators where they lack {reasons}"
    return f"kernels for {level}"


def _facts(stack: spec.StackSpec) -> dict[str, Any]:
    attention = stack.blocks[0].self_attn.attention
    return {
        "family": stack.family,
        "num_layers": stack.num_layers,
        "hidden_size": stack.hidden_size,
        "num_heads": attention.num_heads,
        "num_kv_heads": attention.num_kv_heads,
        "vocab_size": stack.vocab_size,
        "max_positions": stack.max_positions,
    }


def _tokenizers(folder: Path) -> dict[str, Any]:
    """Describe the tokenizer of each side, or the single one under "both"."""
    if not has_tokenizer(folder):
        return {}
    from conjoin.tokenizer import AutoTokenizer, TokenizerPair

    loaded = AutoTokenizer.from_pretrained(folder)
    is_pair = isinstance(loaded, TokenizerPair)
    sides = {"source": loaded.source, "target": loaded.target} if is_pair else {"both": loaded}
    return {side: f"{type(tokenizer).__name__} of {len(tokenizer)} tokens" for side, tokenizer in sides.items()}


def _ids(config: PretrainedConfig) -> dict[str, Any]:
    tokens = special_tokens(config)
    return {"start": tokens.start, "pad": tokens.pad, "eos": list(tokens.eos), "bos": tokens.bos}
