"""Choice between our kernels and PyTorch: tracers and further gradients need PyTorch's operators."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Mode = Literal["inference", "training", "pytorch"]

# PyTorch tells these things nowhere in public.
_C = cast(Any, torch)._C
_forward_ad = cast(Any, torch.autograd.forward_ad)


def mode_of(*tensors: Tensor | None) -> Mode:
    """Return which of our kernels may run on these tensors; "pytorch" if none may."""
    some = [tensor for tensor in tensors if tensor is not None]
    if not is_eager(*some) or not all(tensor.is_cpu and tensor.numel() for tensor in some):
        return "pytorch"
    if torch.is_grad_enabled():
        return "training" if any(tensor.requires_grad for tensor in some) else "pytorch"
    return "pytorch" if torch.is_autocast_enabled("cpu") else "inference"


def is_eager(*tensors: Tensor) -> bool:
    """True if these are plain tensors, and no compiler, tracer or transform records the operations on them."""
    return (
        not torch.compiler.is_compiling()
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not _C._are_functorch_transforms_active()
        and not _C._len_torch_dispatch_stack()  # modes that record operators, such as make_fx
        and _forward_ad._current_level < 0
    )


def autocasts(device: str) -> bool:
    """True if autocast is on for a type of device; some types, such as "meta", have no autocast."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
