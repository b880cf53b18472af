"""Every family, in every role, computes on TensorFlow what the PyTorch backend computes from the same parameters."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import oracle
from conjoin.families import family
from conjoin.functional.programs import CompileKey, ForwardOptions, decode, forward, start_cache
from conjoin.functional.scope import Scope
from conjoin.tensorflow.ops import OPS
from conjoin.tensorflow.outputs import Seq2SeqLMOutput
from family_pairs import DECODER, DECODERS, ENCODER, ENCODERS, PIECES, Case, make_case, step_inputs
from lanes import FAST_KEYS, lanes
from tf_models import arrays_of, assert_close, inputs

TRACED = lanes(product(FAST_KEYS, (False, True)), {("gemma2", False), ("t5/gated", True)}.__contains__)


def scope_of(key: CompileKey, params: Any) -> Scope:
    return key.scope(OPS, {name: tf.convert_to_tensor(x) for name, x in params.items()})


def stepped(key: CompileKey, params: Any, batch: Any) -> tuple[Any, list[Any]]:
    """One pass over the batch, and the targets once more in pieces."""
    model = scope_of(key, params)
    full = Seq2SeqLMOutput(**forward(key, ForwardOptions(), model, batch))
    cache, pieces = start_cache(key, model, 2, 13, full.encoder_last_hidden_state, padded=False), []
    for start, end in PIECES:
        decoded = decode(key, ForwardOptions(), model, step_inputs(batch, start, end), None, cache)
        cache = decoded.past_key_values
        pieces.append(decoded.logits)
    return full, pieces


def assert_outputs(ours: Any, case: Case) -> None:
    theirs, batch = case.outputs, case.batch
    assert_close(ours.encoder_last_hidden_state, theirs.encoder_last_hidden_state, batch["attention_mask"])
    assert_close(ours.logits, theirs.logits, batch["decoder_attention_mask"])
    assert_close(ours.loss, theirs.loss)


def assert_steps(case: Case, wrap: Callable[[Any], Any] = lambda run: run) -> None:
    key, params, batch = CompileKey(case.model.spec), arrays_of(case.model), inputs(case.batch)
    full, pieces = wrap(lambda: stepped(key, params, batch))()
    assert_outputs(full, case)
    for piece, (start, end) in zip(pieces, PIECES, strict=True):
        assert_close(piece, case.unmasked[:, start:end])


@pytest.mark.parametrize("key", ENCODERS)
def test_an_encoder_computes_what_it_does_on_torch(key: str, tmp_path: Path) -> None:
    case = make_case(key, DECODER, tmp_path)
    network = CompileKey(case.model.spec)
    fields = forward(network, ForwardOptions(), scope_of(network, arrays_of(case.model)), inputs(case.batch))
    assert_outputs(Seq2SeqLMOutput(**fields), case)


@pytest.mark.parametrize("key", DECODERS)
def test_a_decoder_computes_what_it_does_on_torch_with_a_cache_too(key: str, tmp_path: Path) -> None:
    assert_steps(make_case(ENCODER, key, tmp_path))


@pytest.mark.parametrize(("key", "jit_compile"), TRACED)
def test_a_traced_or_compiled_program_computes_the_same(key: str, jit_compile: bool, tmp_path: Path) -> None:
    decodes = family(oracle.model_type(key)).decoder is not None
    case = make_case(ENCODER, key, tmp_path) if decodes else make_case(key, DECODER, tmp_path)
    assert_steps(case, lambda run: tf.function(run, jit_compile=jit_compile, autograph=False))
