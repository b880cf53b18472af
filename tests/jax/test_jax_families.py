"""Every family, in every role, computes on JAX what the PyTorch backend computes from the same parameters."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest

from conjoin.functional.programs import CompileKey, ForwardOptions
from conjoin.jax.programs import decode, forward, start_cache
from family_pairs import DECODER, DECODERS, ENCODER, ENCODERS, PIECES, Case, make_case, step_inputs
from jax_models import arrays_of, assert_close, inputs


@partial(jax.jit, static_argnums=0)
def whole(key: CompileKey, params: Any, batch: Any) -> Any:
    """One pass over the batch."""
    return forward(key, ForwardOptions(), params, batch, None)


@partial(jax.jit, static_argnums=0)
def stepped(key: CompileKey, params: Any, batch: Any) -> tuple[Any, list[Any]]:
    """One pass over the batch, and the targets once more in pieces."""
    full = forward(key, ForwardOptions(), params, batch, None)
    cache, pieces = start_cache(key, 2, 13, params, full.encoder_last_hidden_state, None), []
    for start, end in PIECES:
        decoded = decode(key, ForwardOptions(), params, step_inputs(batch, start, end), None, cache, None)
        cache = decoded.past_key_values
        pieces.append(decoded.logits)
    return full, pieces


def assert_outputs(ours: Any, case: Case) -> None:
    theirs, batch = case.outputs, case.batch
    assert_close(ours.encoder_last_hidden_state, theirs.encoder_last_hidden_state, batch["attention_mask"])
    assert_close(ours.logits, theirs.logits, batch["decoder_attention_mask"])
    assert_close(ours.loss, theirs.loss)


@pytest.mark.parametrize("key", ENCODERS)
def test_an_encoder_computes_what_it_does_on_torch(key: str, tmp_path: Path) -> None:
    case = make_case(key, DECODER, tmp_path)
    assert_outputs(whole(CompileKey(case.model.spec), arrays_of(case.model), inputs(case.batch)), case)


@pytest.mark.parametrize("key", DECODERS)
def test_a_decoder_computes_what_it_does_on_torch_with_a_cache_too(key: str, tmp_path: Path) -> None:
    case = make_case(ENCODER, key, tmp_path)
    full, pieces = stepped(CompileKey(case.model.spec), arrays_of(case.model), inputs(case.batch))
    assert_outputs(full, case)
    for piece, (start, end) in zip(pieces, PIECES, strict=True):
        assert_close(piece, case.unmasked[:, start:end])
