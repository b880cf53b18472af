"""How fast is generation on JAX and TensorFlow, against transformers' last Flax and TensorFlow classes and PyTorch?

    pip install torch==2.13.0 numpy
    pip install tensorflow-cpu==2.21.0 transformers==4.57.6 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
    pip install --no-deps tf-keras==2.21.0
    PYTHONPATH=src python benchmarks/frameworks.py [--frameworks jax tensorflow] [--shapes ...] [--rounds 5] [--quick]

All contenders load one checkpoint and run in one process, in turn. Prints one JSON line per setting; every contender's
tokens are compared with conjoin's on PyTorch, since not all peers generate the right ones:

- Flax, as documented: `model.generate(...)`. It passes positions to BERT's encoder as token types, and compiles again
  at each call. Tuned: the encoder is called correctly, and all of generate is under one `jax.jit`.
- TensorFlow, as documented: `model.generate(...)`, eager. Tuned: under `tf.function(jit_compile=True)`; fast, but it
  generates wrong tokens.

conjoin on TensorFlow runs twice: with default settings, one graph for all shapes, and with `jit_compile=True`.
"""

import argparse
import importlib
import importlib.util
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # read once, by transformers and TensorFlow

import numpy as np

NEW_TOKENS = 32
MODES: dict[str, dict[str, Any]] = {"greedy": {}, "beam 4": {"num_beams": 4}}
JUDGE = "conjoin on PyTorch"
PACKAGES = ("jax", "flax", "tensorflow-cpu", "tensorflow", "tf-keras")
Write = Callable[[np.ndarray, np.ndarray], Any]
"""From ids and mask to sequences, which begin with the start token."""


def main() -> None:
    """Run the selected settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="*", default=["jax", "tensorflow"], choices=["jax", "tensorflow"])
    parser.add_argument("--shapes", nargs="*", default=["4 layers of 256", "MiniLM-L6 x MiniLM-L6"])
    parser.add_argument("--sources", type=int, nargs="*", default=[64])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="cores that the process may use")
    parser.add_argument("--quick", action="store_true", help="one tiny shape, three rounds")
    args = parser.parse_args()
    if args.quick:
        args.shapes, args.rounds, args.batches = ["tiny"], 3, [4]
    warnings.simplefilter("ignore")
    _pin(args.threads)

    from _harness import floors, machine, report, scratch

    versions = {name: number for name in PACKAGES if (number := _version(name))}
    report({"question": "frameworks", "machine": machine() | versions, "floors": floors()})
    for shape in args.shapes:
        with scratch() as folder:
            _save(shape, folder)
            for source, batch, mode in itertools.product(args.sources, args.batches, args.modes):
                setting = {"shape": shape, "source": source, "batch": batch, "mode": mode, "new_tokens": NEW_TOKENS}
                report(setting | _measure(folder, args.frameworks, source, batch, MODES[mode], args.rounds))


def _pin(threads: int) -> None:
    """Restrict the process to this many cores, before any framework counts them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)


def _save(shape: str, folder: Path) -> None:
    """Save a random model of a shape, with varied output, as conjoin writes it."""
    import _shapes as shapes

    from conjoin import EncoderDecoderModel

    shapes.save(shape, folder / "made", lively=True)
    EncoderDecoderModel.from_pretrained(folder / "made").save_pretrained(folder)


def _measure(
    folder: Path, frameworks: list[str], source: int, batch: int, mode: dict[str, Any], rounds: int
) -> dict[str, Any]:
    from _harness import race, ratio

    ids, mask = _sources(folder, source, batch)
    first: dict[str, float] = {}
    tokens: dict[str, np.ndarray] = {}
    runs: dict[str, Callable[[], Any]] = {}
    failed: dict[str, str] = {}
    for name, make in _contenders(frameworks).items():
        try:
            write = make(folder, mode)
            start = time.perf_counter()
            tokens[name] = np.asarray(write(ids, mask))
            first[name] = round(time.perf_counter() - start, 3)
            runs[name] = lambda write=write: np.asarray(write(ids, mask))
        except Exception as error:  # that a peer cannot run is a result too
            failed[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    timings = race(runs, rounds)
    expected = tokens[JUDGE]
    ours = {name: timing for name, timing in timings.items() if name.startswith("conjoin")}
    return {
        "tokens_equal": {name: _equal(expected, actual) for name, actual in tokens.items()},
        "first_s": first,
        "median_s": {name: round(timing.median, 4) for name, timing in timings.items()},
        "seconds": {name: [round(s, 4) for s in timing.seconds] for name, timing in timings.items()},
        "ratios": {
            mine: {peer: ratio(timings[peer], timing) for peer in timings if peer != mine}
            for mine, timing in ours.items()
        },
        "different_words": len(set(expected[:, 1:].flatten().tolist())),
        **({"failed": failed} if failed else {}),
    }


def _sources(folder: Path, source: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random ids without special tokens, and the mask; a quarter of the last source is padding."""
    from conjoin import AutoConfig

    vocab_size = AutoConfig.from_pretrained(folder).encoder.vocab_size
    ids = np.random.default_rng(source * 100 + batch).integers(vocab_size // 20, vocab_size // 2, (batch, source))
    mask = np.ones_like(ids)
    if batch > 1:
        ids[-1, -source // 4 :], mask[-1, -source // 4 :] = 0, 0
    return ids.astype(np.int32), mask.astype(np.int32)


def _equal(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the share of equal tokens at equal positions."""
    length = min(expected.shape[1], actual.shape[1])
    same = (expected[:, 1:length] == actual[:, 1:length]).sum()
    return round(float(same) / expected[:, 1:].size, 4)


# Contenders


def _contenders(frameworks: list[str]) -> dict[str, Callable[[Path, dict[str, Any]], Write]]:
    makers: dict[str, Callable[[Path, dict[str, Any]], Write]] = {JUDGE: _ours_torch, "transformers, PyTorch": _torch}
    if "jax" in frameworks:
        makers |= {
            "conjoin on JAX": _ours_jax,
            "transformers, Flax as documented": _flax_documented,
            "transformers, Flax tuned": _flax_tuned,
        }
    if "tensorflow" in frameworks:
        if importlib.util.find_spec("conjoin.tensorflow"):
            makers["conjoin on TensorFlow"] = _ours_tensorflow
            makers["conjoin on TensorFlow, compiled"] = _ours_tensorflow_compiled
        makers |= {
            "transformers, TensorFlow as documented": _tensorflow_documented,
            "transformers, TensorFlow tuned": _tensorflow_tuned,
        }
    return makers


_OURS = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
_THEIRS = {"max_length": NEW_TOKENS + 1, "min_length": NEW_TOKENS + 1}  # the start token counts


@cache
def _load(library: str, kind: str, folder: Path, **kwargs: Any) -> Any:
    """Load a model of a class, once per shape; settings and contenders share it."""
    return getattr(importlib.import_module(library), kind).from_pretrained(folder, **kwargs)


def _ours_torch(folder: Path, mode: dict[str, Any]) -> Write:
    import torch

    model = _load("conjoin", "EncoderDecoderModel", folder)
    return lambda ids, mask: model.generate(
        torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask), **_OURS, **mode
    )


def _torch(folder: Path, mode: dict[str, Any]) -> Write:
    import torch

    model = _load("transformers", "EncoderDecoderModel", folder).eval()

    @torch.inference_mode()
    def write(ids: np.ndarray, mask: np.ndarray) -> Any:
        return model.generate(torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask), **_THEIRS, **mode)

    return write


def _ours_jax(folder: Path, mode: dict[str, Any]) -> Write:
    model = _load("conjoin", "FlaxEncoderDecoderModel", folder)
    return lambda ids, mask: model.generate(ids, attention_mask=mask, **_OURS, **mode).sequences


def _flax_documented(folder: Path, mode: dict[str, Any]) -> Write:
    model = _load("transformers", "FlaxEncoderDecoderModel", folder, from_pt=True)
    return lambda ids, mask: model.generate(ids, attention_mask=mask, **_THEIRS, **mode).sequences


def _flax_tuned(folder: Path, mode: dict[str, Any]) -> Write:
    import jax
    import jax.numpy as jnp
    from transformers.modeling_flax_outputs import FlaxBaseModelOutput

    model = _load("transformers", "FlaxEncoderDecoderModel", folder, from_pt=True)

    def encode(module: Any, ids: Any, mask: Any) -> Any:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        return module.encoder(ids, mask, token_type_ids=jnp.zeros_like(ids), position_ids=positions)[0]

    @jax.jit
    def write(params: Any, ids: Any, mask: Any) -> Any:
        encoded = FlaxBaseModelOutput(model.module.apply({"params": params}, ids, mask, method=encode))
        kwargs = {"attention_mask": mask, "encoder_outputs": encoded, "params": params}
        return model.generate(ids, **kwargs, **_THEIRS, **mode).sequences

    return lambda ids, mask: write(model.params, ids, mask)


def _ours_tensorflow(folder: Path, mode: dict[str, Any], **kwargs: Any) -> Write:
    model = _load("conjoin", "TFEncoderDecoderModel", folder)
    return lambda ids, mask: model.generate(ids, attention_mask=mask, **_OURS, **mode, **kwargs)


def _ours_tensorflow_compiled(folder: Path, mode: dict[str, Any]) -> Write:
    return _ours_tensorflow(folder, mode, jit_compile=True)


def _tensorflow_documented(folder: Path, mode: dict[str, Any]) -> Write:
    model = _load("transformers", "TFEncoderDecoderModel", folder, from_pt=True)
    return lambda ids, mask: model.generate(ids, attention_mask=mask, **_THEIRS, **mode)


def _tensorflow_tuned(folder: Path, mode: dict[str, Any]) -> Write:
    import tensorflow as tf

    model = _load("transformers", "TFEncoderDecoderModel", folder, from_pt=True)

    @tf.function(jit_compile=True)
    def write(ids: Any, mask: Any) -> Any:
        return model.generate(ids, attention_mask=mask, **_THEIRS, **mode)

    return lambda ids, mask: write(tf.constant(ids), tf.constant(mask))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
