"""What holds for every test: no network, one seed, one thread per worker, arrays checked against their shapes."""

import gc
import os
import random
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from slow_cases import function_of, slow_cases

# Before any framework is imported, since they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# JAX keeps what it compiles on disk, also in processes that tests start: compiling costs ten times what running does.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"conjoin-jax-cache-{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA's newer way to generate code for a CPU compiles our programs half as fast, and faster code gains tests nothing.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # workers share the cores: more threads each only get in the way

SEED = 1729
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")

if os.environ.get("CONJOIN_BEARTYPE", "1") != "0":
    from jaxtyping import install_import_hook

    install_import_hook(["conjoin.torch", "conjoin.jax", "conjoin.tensorflow"], "shape_checks.check_shapes")


class NetworkInTest(RuntimeError):
    """A test reached for another machine."""


def _is_local(address: Any) -> bool:
    return not isinstance(address, tuple) or str(address[0]).startswith(LOOPBACK)


def _guarded(connect: Any) -> Any:
    def connect_locally(self: socket.socket, address: Any) -> Any:
        if not _is_local(address):
            raise NetworkInTest(f"a test tried to connect to {address!r}; tests build what they need")
        return connect(self, address)

    return connect_locally


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Any:
    """Let tests talk to this machine only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", _guarded(socket.socket.connect_ex))
        yield


@pytest.fixture(autouse=True, scope="session")
def own_data_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep tokenized data of this session only: those of another may have been made by other code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONJOIN_DATA_CACHE", str(tmp_path_factory.mktemp("data-cache")))
        yield


@pytest.fixture(autouse=True)
def same_seed() -> None:
    """Start every test from the same random state, in the libraries that it has loaded."""
    random.seed(SEED)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(SEED)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(SEED)


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_end_with_their_module() -> Any:
    """Let go of what JAX compiled: every program holds memory maps, of which Linux gives a process 65,530."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        gc.collect()


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow what was measured to be slow, and skip what needs a GPU where there is none."""
    listed = slow_cases()
    for item in items:
        if item.nodeid in listed or function_of(item.nodeid) in listed:
            item.add_marker(pytest.mark.slow)
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if wanting and not _has_gpu():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
