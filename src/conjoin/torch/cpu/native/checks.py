"""Checks on the arguments of kernels, which themselves read any memory that sizes and pointers name."""

from typing import NoReturn

import torch
from torch import Tensor

from conjoin.errors import DeviceError, ShapeError

_SCALE_BYTES = 4  # size of the scale at the end of an int8 row: see cache_rows


def on_cpu(*tensors: Tensor | None) -> bool:
    """True if all tensors are in CPU memory."""
    return all(tensor is None or tensor.is_cpu for tensor in tensors)


def is_vector(x: Tensor | None, size: int, dtype: torch.dtype) -> bool:
    """True if x is None or a contiguous vector of this size and dtype, in CPU memory."""
    return x is None or (x.dtype == dtype and x.shape == (size,) and x.is_contiguous() and x.is_cpu)


def is_matrix(x: Tensor, columns: int, dtype: torch.dtype) -> bool:
    """True if x is a contiguous matrix with this number of columns and this dtype, in CPU memory."""
    return x.dtype == dtype and x.dim() == 2 and x.shape[1] == columns and x.is_contiguous() and x.is_cpu


def kept_width(size: int, dtype: torch.dtype) -> int:
    """Return the width of a cache row for `size` numbers; int8 rows are padded and end in their scale."""
    return -(-size // _SCALE_BYTES) * _SCALE_BYTES + _SCALE_BYTES if dtype == torch.int8 else size


def require_numbers(weight: Tensor, x: Tensor) -> None:
    """Check that a weight has data if its input has: PyTorch's own product would read from address 0.

    Raises:
        DeviceError: the weight is on the meta device and its input is not.
    """
    if weight.is_meta and not x.is_meta:
        raise DeviceError(
            f"A weight of shape {tuple(weight.shape)} is on the device meta, and its input on {x.device}; expected all "
            "tensors to be on the same device.",
            hint="move the whole model: model.to(device); weights on meta have no numbers.",
        )


def refuse(kernel: str, **tensors: Tensor | None) -> NoReturn:
    """Raise an error that describes the arguments of a kernel.

    Raises:
        ShapeError: always.
    """
    descriptions = [
        f"{name}: {tuple(x.shape)} of {str(x.dtype).removeprefix('torch.')} on {x.device}, strides {x.stride()}"
        for name, x in tensors.items()
        if x is not None
    ]
    raise ShapeError(
        f"The kernel {kernel} was handed tensors that do not fit, or that it cannot read: {'; '.join(descriptions)}.",
        hint="CONJOIN_NATIVE=0 computes without kernels; please report what led here.",
    )
