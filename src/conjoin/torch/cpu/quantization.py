"""8-bit models for inference: weights rounded once, a unit per output; activations as they come, a unit per row.

The scheme is called W8A8, per channel and per token, symmetric (Dettmers et al. 2022, arXiv:2208.07339, section 2.1,
without its outlier columns). Embedding tables, norms and biases keep their dtype.
"""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin import spec
from conjoin.checkpoint import Checkpoint, Staging, parse_size, write_tensors
from conjoin.errors import ConfigError, WeightError, listing
from conjoin.families import PretrainedConfig
from conjoin.join import QUANTIZED, is_quantized, shared_names
from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.cpu.linear_grad import ordinary
from conjoin.torch.cpu.native.checks import is_matrix, require_numbers
from conjoin.torch.cpu.native.kernels import are_units
from conjoin.torch.cpu.pages import weight_memory
from conjoin.torch.model.head import Head
from conjoin.torch.model.sharing import tie
from conjoin.torch.pair.loading import as_tensor, materialise, stored_dtype

_MOST = 127


def quantize_rows(weight: Float[Tensor, "m n"]) -> tuple[Int8[Tensor, "m n"], Float[Tensor, " m"]]:
    """Whole numbers in -127 .. 127 and the float32 unit of each row; a row of zeros has the unit 1."""
    wide = weight.float()
    scale = wide.abs().amax(1) / _MOST
    scale = torch.where(scale > 0, scale, 1.0)
    return (wide / scale[:, None]).round().clamp(-_MOST, _MOST).to(torch.int8), scale


class QuantizedLinear(nn.Module):
    """y = x (scale W)^T + b, W in 8 bits; every row of x is rounded to 8 bits with a unit of its own.

    Args:
        weight: int8.
        scale: float32, whatever the model's dtype.
        bias: Of the model's dtype.
    """

    def __init__(
        self, weight: Int8[nn.Parameter, "m n"], scale: Float[nn.Parameter, " m"], bias: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.weight, self.scale, self.bias = weight, scale, bias
        self._sums: Tensor | None = None
        self._summed: tuple[int, int] | None = None

    def forward(self, input: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
        """Map every vector. Nothing here has a gradient."""
        if self._native(input):
            return native.linear_int8(input, self.weight, self.scale, self.row_sums(), self.bias)
        require_numbers(self.weight, input)
        x = input.detach().float()
        most = x.abs().amax(-1, keepdim=True)
        rounded = torch.where(most > 0, x * most.new_tensor(_MOST).div(most), 0.0).round()
        wide = F.linear(rounded, self.weight.float()) * (most / _MOST * self.scale)
        return (wide if self.bias is None else wide + self.bias).to(input.dtype)

    def _native(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.bfloat16)
            and ordinary(x)
            and x.numel() > 0
            and x.dim() > 0
            and is_matrix(self.weight, x.shape[-1], torch.int8)
            and are_units(self.weight, self.scale, self.row_sums(), self.bias, x.dtype)
            and native.has("int8")
        )

    def beside_parameters(self) -> list[nn.Parameter]:
        """What 8 bits added, and no parameter of the model: the units."""
        return [self.get_parameter("scale")]

    def row_sums(self) -> Tensor:
        """int32 [m], what the kernel takes off because it holds x around 128."""
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._sums is None or self._summed != (self.weight.data_ptr(), version):
            self._sums = self.weight.sum(1, dtype=torch.int32)
            self._summed = (self.weight.data_ptr(), version)
        return self._sums

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale.detach()
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:  # a unit keeps its precision in a bfloat16 model
            moved = torch.empty_like(self.scale, dtype=torch.float32)
            self.scale.data = moved if scale.is_meta else moved.copy_(scale)
        self._sums = None
        return self


class Quantizing(nn.Module):
    """What a model can do about its own size."""

    config: PretrainedConfig

    def quantize(self, method: str = "int8") -> Self:
        """Turn every linear layer, and the vocabulary matrix, into 8 bits, in place; for inference only.

        Returns:
            The model itself. It can be saved and loaded; it cannot be trained or turned back.

        Raises:
            ConfigError: another method, or a model that is quantised already.
        """
        if method != "int8":
            raise ConfigError(f"quantize({method!r}): expected 'int8'; for bfloat16 call model.to(torch.bfloat16).")
        if is_quantized(self.config):
            raise ConfigError("This model is quantised already.")
        _swap(self)
        self.config.update({"quantization_config": {"quant_method": QUANTIZED, "bits": 8}})
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.eval()
        return self


def _swap(model: nn.Module) -> None:
    """Replace linear layers and vocabulary matrices; what shared a weight shares it afterwards."""
    made: dict[int, tuple[nn.Parameter, QuantizedLinear]] = {}

    def emptied(weight: nn.Parameter, bias: nn.Parameter | None) -> QuantizedLinear:
        if id(weight) not in made:
            on_cpu, scale = weight.device.type == "cpu", weight.new_empty(len(weight), dtype=torch.float32)
            whole = weight_memory(weight.shape, torch.int8) if on_cpu else torch.empty_like(weight, dtype=torch.int8)
            made[id(weight)] = weight, QuantizedLinear(_fixed(whole), _fixed(scale), None)
        _, same = made[id(weight)]
        return QuantizedLinear(same.weight, same.scale, bias)

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, emptied(child.get_parameter("weight"), child.bias))
        head = getattr(module, "head", None)
        if isinstance(head, Head) and head.vocab is None:
            head.vocab = emptied(module.get_parameter("embed.words.weight"), None)
    for weight, same in made.values():
        for to, numbers in zip((same.weight, same.scale), quantize_rows(weight.detach()), strict=True):
            to.copy_(numbers)


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def write_quantized(model: nn.Module, staging: Staging, max_shard_size: int | str, pair: spec.PairSpec) -> None:
    """Write the parameters under their canonical names, shared ones once: no other library has names for them.

    Args:
        pair: What is shared; what is one tensor nevertheless is written under both names.
    """
    once = {f"decoder.{name.rpartition('.')[0]}." for name in shared_names(pair)}
    held = {id(parameter) for parameter in model.encoder.parameters()}  # pyright: ignore[reportAttributeAccessIssue]
    kept = (
        (name, parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) not in held or f"{name.rpartition('.')[0]}." not in once
    )
    tensors = ((name, *_storable(parameter.detach().cpu().contiguous())) for name, parameter in kept)
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
    """Give a model that was built on the meta device the 8-bit layers and the numbers of a checkpoint.

    Raises:
        WeightError: missing, superfluous or misshapen tensors, all of them named.
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
    made = dict(model.named_parameters(remove_duplicate=False))
    for name in wanted:
        with torch.no_grad():
            made[name].copy_(as_tensor(checkpoint.array(name), checkpoint[name].dtype))
    for name, parameter in names.items():
        if first[id(parameter)] != name:
            tie(model, name, made[first[id(parameter)]])
    for parameter in model.parameters():
        parameter.requires_grad_(False)


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
