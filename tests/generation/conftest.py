"""Generation picks its tokens in kernels on a CPU, and by PyTorch's operators elsewhere."""

from collections.abc import Iterator

import pytest

from conjoin.torch.cpu.native import select
from conjoin.torch.generation.generate import Run


@pytest.fixture(scope="module", params=["kernels", "operators"])
def by_kernels_and_by_operators(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the tests of a module twice: searches, processors and beams by kernels, and by PyTorch's operators."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "operators":
            patch.setattr(select, "library", lambda: None)
            patch.setattr(Run, "native_requests", lambda *_, **__: None)
        yield
