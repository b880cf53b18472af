"""What kernels are handed is checked here: they read as far as they are told to, whatever lies there."""

from typing import NoReturn

import torch
from torch import Tensor

from conjoin.errors import DeviceError, ShapeError

_UNIT_BYTES = 4  # of a row in 8 bits: see cache_rows


def on_cpu(*tensors: Tensor | None) -> bool:
    """Whether the tensors have memory that a CPU reads."""
    return all(tensor is None or tensor.is_cpu for tensor in tensors)


def is_vector(x: Tensor | None, size: int, dtype: torch.dtype) -> bool:
    """Whether x is so many numbers side by side, or is not given."""
    return x is None or (x.dtype == dtype and x.shape == (size,) and x.is_contiguous() and x.is_cpu)


def is_matrix(x: Tensor, columns: int, dtype: torch.dtype) -> bool:
    """Whether x is rows of so many numbers, side by side."""
    return x.dtype == dtype and x.dim() == 2 and x.shape[1] == columns and x.is_contiguous() and x.is_cpu


def kept_width(size: int, dtype: torch.dtype) -> int:
    """Numbers of a cache's row that holds `size` of them."""
    return -(-size // _UNIT_BYTES) * _UNIT_BYTES + _UNIT_BYTES if dtype == torch.int8 else size


def require_numbers(weight: Tensor, x: Tensor) -> None:
    """Check that a weight has numbers where its input has: PyTorch's own product reads whatever lies at address 0.

    Raises:
        DeviceError: it is on the meta device alone.
    """
    if weight.is_meta and not x.is_meta:
        raise DeviceError(
            f"A weight of shape {tuple(weight.shape)} is on the device meta, and its input on {x.device}; expected all "
            "tensors to be on the same device.",
            hint="move the whole model: model.to(device); weights on meta have no numbers.",
        )


def refuse(kernel: str, **tensors: Tensor | None) -> NoReturn:
    """Say what a kernel was handed.

    Raises:
        ShapeError: always.
    """
    told = [
        f"{name}: {tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')} on {x.device}, strides {x.stride()}"
        for name, x in tensors.items()
        if x is not None
    ]
    raise ShapeError(
        f"The kernel {kernel} was handed tensors that do not fit, or that it cannot read: {'; '.join(told)}.",
        hint="CONJOIN_NATIVE=0 computes without kernels; please report what led here.",
    )
