"""Joins compute by kernels on a CPU, and by PyTorch's operators elsewhere."""

import pytest

from conjoin.torch.generation import reader
from conjoin.torch.model import route


@pytest.fixture(params=["kernels", pytest.param("operators", marks=pytest.mark.slow)])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute encoders and steps by kernels, and by PyTorch's operators."""
    if request.param == "operators":
        for module in (route, reader):
            monkeypatch.setattr(module, "kernels_of", lambda *_: None)
        monkeypatch.setattr(route, "_native_steps", lambda *_: None)
    return request.param
