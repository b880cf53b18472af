"""A joined model in 8 bits: quantise, save and load it."""

import numpy as np
import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.checkpoint import Checkpoint, Staging, parse_size, write_tensors
from conjoin.errors import ConfigError, WeightError, listing
from conjoin.families import PretrainedConfig
from conjoin.join import QUANTIZED, is_quantized, shared_names
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.cpu.pages import weight_memory
from conjoin.torch.cpu.quantization import QuantizedLinear, quantize_rows
from conjoin.torch.model.head import Head
from conjoin.torch.model.sharing import tie
from conjoin.torch.pair.loading import as_tensor, materialise, stored_dtype


def quantize(model: nn.Module, config: PretrainedConfig, method: str) -> None:
    """See EncoderDecoderModel.quantize."""
    if method != "int8":
        raise ConfigError(f"quantize({method!r}): expected 'int8'; for bfloat16 call model.to(torch.bfloat16).")
    if is_quantized(config):
        raise ConfigError("This model is quantised already.")
    _swap(model)
    config.update({"quantization_config": {"quant_method": QUANTIZED, "bits": 8}})
    _freeze(model)
    model.eval()


def _freeze(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _swap(model: nn.Module) -> None:
    """Replace linear layers and vocabulary matrices; layers that share a weight still share it afterwards."""
    quantized: dict[int, tuple[nn.Parameter, QuantizedLinear]] = {}

    def replacement(weight: nn.Parameter, bias: nn.Parameter | None) -> QuantizedLinear:
        if id(weight) not in quantized:
            on_cpu, scale = weight.device.type == "cpu", weight.new_empty(len(weight), dtype=torch.float32)
            integers = weight_memory(weight.shape, torch.int8) if on_cpu else torch.empty_like(weight, dtype=torch.int8)
            quantized[id(weight)] = weight, QuantizedLinear(_fixed(integers), _fixed(scale), None)
        _, layer = quantized[id(weight)]
        return QuantizedLinear(layer.weight, layer.scale, bias)

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, replacement(child.get_parameter("weight"), child.bias))
        head = getattr(module, "head", None)
        if isinstance(head, Head) and head.vocab is None:
            head.vocab = replacement(module.get_parameter("embed.words.weight"), None)
    for weight, layer in quantized.values():
        for parameter, values in zip((layer.weight, layer.scale), quantize_rows(weight.detach()), strict=True):
            parameter.copy_(values)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def write_quantized(model: nn.Module, staging: Staging, max_shard_size: int | str, pair: spec.PairSpec) -> None:
    """Write the parameters under canonical names, since no other library has names for them, and shared ones once.

    Args:
        pair: Its `share` decides what is shared; other tensors are written under both names, even if they are one.
    """
    once = {f"decoder.{name.rpartition('.')[0]}." for name in shared_names(pair)}
    in_encoder = {id(parameter) for parameter in model.get_submodule("encoder").parameters()}
    written = (
        (name, parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) not in in_encoder or f"{name.rpartition('.')[0]}." not in once
    )
    tensors = ((name, *_storable(parameter.detach().cpu().contiguous())) for name, parameter in written)
    write_tensors(staging, tensors, max_shard_bytes=parse_size(max_shard_size))


def _storable(tensor: Tensor) -> tuple[np.ndarray, str]:
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return bits.numpy(), str(tensor.dtype).removeprefix("torch.")


def fill_quantized(
    model: nn.Module,
    pair: spec.PairSpec,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> None:
    """Fill a model on the meta device with 8-bit layers and the weights of a checkpoint.

    Raises:
        WeightError: tensors are missing, unexpected or misshapen; the message lists them all.
    """
    for name in shared_names(pair):
        tie(model, f"decoder.{name}", model.get_parameter(f"encoder.{name}"))
    _swap(model)
    names = dict(model.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in reversed(names.items())}
    wanted = {name: names[name].shape for name in first.values()}
    _check_names({name: tuple(shape) for name, shape in wanted.items()}, checkpoint)
    floating = {name: info for name, info in checkpoint.items() if not name.endswith(".scale")}
    materialise(model, dtype or stored_dtype(floating), device)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in wanted:
        with torch.no_grad():
            parameters[name].copy_(as_tensor(checkpoint.array(name), checkpoint[name].dtype))
    for name, parameter in names.items():
        if first[id(parameter)] != name:
            tie(model, name, parameters[first[id(parameter)]])
    _freeze(model)


def _check_names(wanted: dict[str, tuple[int, ...]], checkpoint: Checkpoint) -> None:
    problems = [f"{name}: missing" for name in wanted if name not in checkpoint]
    problems += [f"{name}: not expected" for name in checkpoint if name not in wanted]
    problems += [
        f"{name}: shape {checkpoint[name].shape}, expected {shape}"
        for name, shape in wanted.items()
        if name in checkpoint and checkpoint[name].shape != shape
    ]
    if problems:
        raise WeightError(f"This 8-bit checkpoint does not fit its config:\n{listing(problems)}")
