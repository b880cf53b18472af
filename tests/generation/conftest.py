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


ALWAYS = ("test_processors", "test_processor_lists", "test_dead_ends", "test_generate_exact")
"""Modules whose tests run both ways in the fast lane, too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the other modules' runs by operators slow."""
    for item in items:
        chosen = getattr(item, "callspec", None)
        by = None if chosen is None else chosen.params.get("by_kernels_and_by_operators")
        if by == "operators" and item.path.stem not in ALWAYS:
            item.add_marker(pytest.mark.slow)
