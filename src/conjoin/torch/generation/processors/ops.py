"""PyTorch's operations, under the names that the rules of conjoin.functional's processors ask for."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from conjoin.functional.ops import Ops

_DTYPES = {"int32": torch.long, "float32": torch.float32, "bool": torch.bool}
"""Indices are 64 bits wide in PyTorch."""


class TorchOps:
    """See conjoin.functional.ops.Ops; the part of it that processors need, on one device.

    Constants are copied to the device once: a rule keeps the array that it makes one of.
    """

    all = staticmethod(torch.all)
    broadcast = staticmethod(torch.broadcast_to)
    cumsum = staticmethod(torch.cumsum)
    exp = staticmethod(torch.exp)
    gather = staticmethod(lambda x, index, axis: x.gather(axis, index))
    log = staticmethod(torch.log)
    log_softmax = staticmethod(lambda x: x.log_softmax(-1))
    logsumexp = staticmethod(lambda x: x.logsumexp(-1, keepdim=True))
    maximum = staticmethod(lambda x, least: x.clamp(min=least))
    min_at = staticmethod(lambda x, index, values: x.scatter_reduce(1, index, values, "amin"))
    minimum = staticmethod(lambda x, most: x.clamp(max=most))
    nan_to_num = staticmethod(lambda x: x.nan_to_num(nan=0.0))
    put_at = staticmethod(lambda x, index, values: x.scatter(1, index, values))
    shape = staticmethod(lambda x: x.shape)
    softmax = staticmethod(lambda x: x.softmax(-1))
    top_k = staticmethod(torch.topk)
    argmax = staticmethod(lambda x: x.argmax(-1))

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._constants: dict[tuple[int, Any], tuple[Any, Tensor]] = {}

    def constant(self, value: Any, dtype: Any = None) -> Tensor:
        held = self._constants.get((id(value), dtype))
        if held is None:
            tensor = torch.as_tensor(value, dtype=_DTYPES.get(dtype, dtype), device=self.device)
            held = self._constants[id(value), dtype] = (value, tensor)  # the value is kept, so its id stays its own
        return held[1]

    def fill_columns(self, x: Tensor, columns: Any, value: float) -> Tensor:
        return x.index_fill(1, self.constant(columns, "int32"), value)

    def full(self, shape: Sequence[int], value: Any, dtype: Any) -> Tensor:
        return torch.full(tuple(shape), value, dtype=_DTYPES.get(dtype, dtype), device=self.device)

    def arange(self, stop: int) -> Tensor:
        return torch.arange(stop, device=self.device)

    @staticmethod
    def add_at(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
        """Rows stay rows in memory, those that were broadcast too."""
        return x.clone(memory_format=torch.contiguous_format).scatter_add_(1, index, values)

    @staticmethod
    def cast(x: Tensor, dtype: Any) -> Tensor:
        return x.to(_DTYPES.get(dtype, dtype))

    @staticmethod
    def where(condition: Tensor, x: Any, y: Any) -> Tensor:
        if isinstance(y, Tensor) and not isinstance(x, Tensor):
            return y.masked_fill(condition, x)
        return torch.where(condition, x, y)

    @staticmethod
    def sum(x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
        return x.sum(axis, keepdim=keepdims)

    @staticmethod
    def max(x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
        return x.amax(axis, keepdim=keepdims)

    @staticmethod
    def any(x: Tensor, axis: int, keepdims: bool = False) -> Tensor:
        return x.any(axis, keepdim=keepdims)

    @staticmethod
    def slice_at(x: Tensor, start: int, size: int, axis: int) -> Tensor:
        return x.narrow(axis, start, size)

    @staticmethod
    def sort(x: Tensor, *, only_possible: bool = False) -> tuple[Tensor, Tensor]:
        """On a CPU without most of what a top-k filter dropped: that costs less than sorting it.

        What was dropped has probability 0, so leaving it out changes no sum. On a GPU asking how many are left would
        cost more than sorting.
        """
        if only_possible and x.device.type == "cpu":
            left = int((x > -torch.inf).sum(1).max())
            if 0 < left <= x.shape[1] // _FEW:
                values, index = x.topk(left)
                return values.flip(1), index.flip(1)
        return x.sort()


_FEW = 8
"""Where at most one token in so many is left, the others are not sorted."""


def ops_on(device: torch.device) -> Ops:
    """Return the operations on a device."""
    return cast(Ops, TorchOps(device))
