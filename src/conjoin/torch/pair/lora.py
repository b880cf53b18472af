"""LoRA and DoRA by peft, inside of a model: added in place, kept in files of peft's beside it, or merged into it.

Names of parameters stay canonical: `encoder.blocks.0.self_attn.q.weight` is the weight that an adapter leaves as it is.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.checkpoint import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Staging, has_adapter, read_json
from conjoin.errors import ConfigError, MissingBackend, WeightError, listing, shown
from conjoin.join import part_of
from conjoin.torch.pair.modules import PairModules
from conjoin.torch.pair.pretrained import plain_state

_NAME = "default"
_BASE = ".base_layer."
_PREFIX = "base_model.model."
"""What peft's files put before the names of a model's parameters."""


def add_adapters(
    model: PairModules,
    *,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.0,
    dora: bool = False,
    targets: Sequence[str] = (),
) -> None:
    """Put adapters around linear layers, and train only these, cross-attention and fresh parameters.

    LoRA (Hu et al. 2021, arXiv:2106.09685) or DoRA (Liu et al. 2024, arXiv:2402.09353). Cross-attention gets no
    adapters: it is trained in full, since most of it is new and has nothing to adapt.

    Args:
        rank: Rank of every adapter.
        alpha: The adapters' product is scaled by alpha / rank; twice the rank by default.
        dora: Learn magnitudes and directions of weights apart.
        targets: Names of the layers, out of q, k, v, o, up, gate and down; all that there are by default.

    Raises:
        ConfigError: the model has adapters already, or no such layers.
        MissingBackend: peft is not installed.
    """
    peft = _peft()
    if has_adapters(model):
        raise ConfigError("The model has adapters already.", hint="merge_adapters(model) merges them into its weights.")
    there = {name.rpartition(".")[2] for name, module in _modules(model) if _can_adapt(name, module)}
    if unknown := [name for name in targets if name not in there]:
        raise ConfigError(
            f"lora_targets: {', '.join(unknown)}; the model's linear layers outside of cross-attention are "
            f"{', '.join(sorted(there))}."
        )
    names = "|".join(targets or sorted(there))
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        use_dora=dora,
        target_modules=rf"(?!.*\.cross_attn\.)(encoder|decoder)\.blocks\..*\.({names})",
    )
    peft.inject_adapter_in_model(config, model, _NAME)
    _train_in_full(model)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules())


def _can_adapt(name: str, module: nn.Module) -> bool:
    parts = name.split(".")
    return isinstance(module, nn.Linear) and "blocks" in parts and "cross_attn" not in parts


def _train_in_full(model: PairModules) -> None:
    fixed = {name for name, parameter in spec.pair_parameters(model.spec).items() if not parameter.trained}
    fresh = {*model.join_report.fresh}
    for name, parameter in base_parameters(model).items():
        if name not in fixed and (part_of(name) == "decoder.cross_attention" or name in fresh):
            parameter.requires_grad_(True)


def has_adapters(model: nn.Module) -> bool:
    """True if layers of a model have adapters of peft."""
    return any(True for _ in _adapted(model))


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the name and module of every layer with an adapter."""
    for name, module in _modules(model):
        if hasattr(module, "base_layer") and hasattr(module, "merged_adapters"):
            yield name, module


def base_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters without those of adapters, by canonical name, shared ones under every name."""
    layers = [f"{name}." for name, _ in _adapted(model)]
    state: dict[str, Tensor] = {}
    for name, parameter in plain_state(model).items():
        owner = next((layer for layer in layers if name.startswith(layer)), None)
        if owner is None:
            state[name] = parameter
        elif name.startswith(f"{owner[:-1]}{_BASE}"):
            state[name.replace(_BASE, ".")] = parameter
    return state


@torch.no_grad()
def merged_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters with all adapters merged, by canonical name; the model stays as it is."""
    state = base_parameters(model)
    for name, layer in _adapted(model):
        weight = layer.get_base_layer().weight
        before = weight.detach().clone()
        layer.merge()
        state[f"{name}.weight"] = weight.detach().clone()
        weight.copy_(before)
        layer.merged_adapters.clear()
    return state


@torch.no_grad()
def merge_adapters(model: PairModules) -> None:
    """Merge all adapters into the weights, and train every parameter again."""
    layers = list(_adapted(model))
    if not layers:
        return
    for name, layer in layers:
        layer.merge()
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    fixed = {name for name, parameter in spec.pair_parameters(model.spec).items() if not parameter.trained}
    for name, parameter in plain_state(model).items():
        parameter.requires_grad_(name not in fixed)


def write_adapter(model: nn.Module, staging: Staging) -> None:
    """Write the adapters of a model in peft's format; without adapters, remove those that an earlier save wrote."""
    if not has_adapters(model):
        remove_adapter(staging)
        return
    from safetensors.torch import save

    peft = _peft()
    config = cast("dict[str, Any]", model.peft_config)[_NAME]
    config.save_pretrained(str(staging.folder))
    state = peft.get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    tensors = {f"{_PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    staging.path(ADAPTER_WEIGHTS).write_bytes(save(tensors))


def remove_adapter(staging: Staging) -> None:
    """Remove an adapter that an earlier save wrote: it is no part of the weights that are written now."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        staging.remove(name)


def read_adapter(model: PairModules, folder: Path) -> None:
    """Load the adapters of a folder into a model; adapters are added where it has none.

    Raises:
        ConfigError: they are no LoRA.
        WeightError: they do not fit the model, or cannot be read.
        MissingBackend: peft is not installed.
    """
    from safetensors import SafetensorError
    from safetensors import torch as untyped

    files: Any = untyped
    peft = _peft()
    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{folder / ADAPTER_CONFIG}: peft_type = {shown(kind)}; expected LORA.")
    if not has_adapters(model):
        peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(str(folder)), model, _NAME)
    own = peft.get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    try:
        loaded: dict[str, Tensor] = files.load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise WeightError(f"{folder / ADAPTER_WEIGHTS}: cannot be read: {error}.") from None
    saved = {name.removeprefix(_PREFIX): tensor for name, tensor in loaded.items()}
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (own, saved)]
    if shapes[0] != shapes[1]:
        names = sorted(name for name in {**own, **saved} if shapes[0].get(name) != shapes[1].get(name))
        raise WeightError(f"{folder}: {len(names)} tensors of its adapter do not fit the model:\n{listing(names)}")
    peft.set_peft_model_state_dict(model, saved, adapter_name=_NAME)


def merge_saved_adapter(model: PairModules, folder: Path) -> None:
    """Merge the adapter of a model's folder into the model, if there is one.

    Raises:
        ConjoinError: as `read_adapter`.
    """
    if has_adapter(folder):
        read_adapter(model, folder)
        merge_adapters(model)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingBackend("LoRA needs peft: pip install 'conjoin[train]'") from None
    return peft
