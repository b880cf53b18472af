"""generate: from a user's call to one compiled program, and its results."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from conjoin.errors import GenerationError
from conjoin.functional.inputs import check_ids
from conjoin.functional.requests import decode_settings
from conjoin.functional.results import Results, check_written, cut_results, traced_results
from conjoin.generation import Request
from conjoin.generation.prompt import (
    ModelInputs,
    as_numpy,
    bind_inputs,
    bind_traced_inputs,
    encoder_states,
    numpy_prompt,
    padding_id,
    read_request,
    reject_pytorch_only,
    source_ids,
)
from conjoin.jax import kernels, programs
from conjoin.jax.calls import prepared
from conjoin.jax.ops import OPS
from conjoin.jax.outputs import GenerateOutput
from conjoin.jax.params import ParameterModel

TARGET_BUCKET = 16
"""Room for targets is a multiple of it: few lengths are compiled, and little room is read in vain."""

Processors = tuple[Callable[..., Any], ...]


def generate(
    model: ParameterModel,
    input_ids: Any,
    generation_config: Any | None,
    prng_key: Any,
    trace: bool,
    params: Mapping[str, Any] | None,
    processors: Processors,
    kwargs: dict[str, Any],
) -> GenerateOutput:
    """See FlaxEncoderDecoderModel.generate."""
    input_ids = source_ids(input_ids, kwargs)
    reject_pytorch_only(kwargs, "JAX")
    flat = model.flat_params if params is None else model.flat(params)
    key = _key(prng_key)
    if any(_is_traced(x) for x in (input_ids, kwargs, flat, key)):
        return _generate_traced(model, input_ids, generation_config, processors, flat, key, kwargs)
    model.warn_of_fresh(lambda: model.all_params(None if params is None else flat))
    inputs, decoder = bind_inputs(input_ids, kwargs, as_numpy, "np"), model.spec.decoder
    request, start = read_request(inputs, decoder, model.config, model.generation_config, kwargs, generation_config)
    prompt, prompt_mask = numpy_prompt(inputs, start)
    check_ids({"decoder_input_ids": prompt}, model.spec)
    returned = request.num_return_sequences
    if request.lengths.longest == prompt.shape[1]:
        return GenerateOutput(sequences=jnp.repeat(jnp.asarray(prompt), returned, axis=0))
    multiple = TARGET_BUCKET if model.bucket_size > 1 else 1
    settings = decode_settings(request, decoder, multiple, processors, "JAX")
    batch = _source_batch(model, inputs, flat, request)
    batch |= {"prompt": jnp.asarray(prompt), "max_length": jnp.int32(request.lengths.longest)}
    if prompt_mask is not None:
        batch["prompt_mask"] = jnp.asarray(prompt_mask)
    ops = OPS
    if kernels.can_read(flat.values()):
        ops = kernels.OPS
    elif prompt.shape[0] * settings.rows > 1:
        flat |= model.transposed.of(flat)
    if trace:
        written = programs.generate_jit(model.key, ops, settings, flat, batch, key)
    else:
        with jax.disable_jit():
            arrays = {n: jnp.asarray(x) for n, x in batch.items()}
            written = programs.generate(model.key, ops, settings, flat, arrays, key)
    check_written(written.fault, settings, prompt.shape[1])
    return _output(cut_results(OPS, written, returned))


def _key(given: Any) -> jax.Array:
    """What words are drawn with.

    Raises:
        GenerationError: it is no key.
    """
    if isinstance(given, int):
        raise GenerationError(f"prng_key = {given}; expected a key.", hint=f"prng_key=jax.random.key({given})")
    return jax.random.key(0) if given is None else given


def _is_traced(tree: Any) -> bool:
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))


def _generate_traced(
    model: ParameterModel,
    input_ids: Any,
    config: Any | None,
    processors: Processors,
    flat: dict[str, jax.Array],
    key: jax.Array,
    kwargs: dict[str, Any],
) -> GenerateOutput:
    """generate inside a function that the user compiles: shapes must not depend on what is written."""
    arrays = bind_traced_inputs(input_ids, kwargs, "In a jitted function", lambda _: False)
    facts, decoder = ModelInputs(ids=np.zeros(jnp.shape(input_ids), np.int32)), model.spec.decoder
    request, start = read_request(facts, decoder, model.config, model.generation_config, kwargs, config)
    prompt, _ = numpy_prompt(facts, start)
    returned = request.num_return_sequences
    if request.lengths.longest == prompt.shape[1]:
        return GenerateOutput(sequences=jnp.repeat(jnp.asarray(prompt), returned, axis=0))
    settings = decode_settings(request, decoder, 1, processors, "JAX")
    pad = padding_id(model.config)
    if "attention_mask" not in arrays and pad is not None:
        arrays["attention_mask"] = jnp.asarray(input_ids) != pad
    batch, _ = prepared(model, arrays, flat)
    batch |= {"prompt": jnp.asarray(prompt), "max_length": jnp.int32(request.lengths.longest)}
    written = programs.generate(model.key, OPS, settings, flat, batch, key)
    return _output(traced_results(OPS, written, settings, returned))


def _output(results: Results) -> GenerateOutput:
    sequences, scores, per_source = results
    return GenerateOutput(sequences=sequences, scores=scores, results_per_source=per_source)


def _source_batch(
    model: ParameterModel, inputs: ModelInputs, flat: dict[str, jax.Array], request: Request
) -> dict[str, Any]:
    """The sources as the program takes them, padded to their bucket."""
    limit = model.spec.encoder.max_positions if request.truncation else None
    arrays = inputs.with_mask(model.config).cut(limit).arrays()
    if inputs.encoded is None:
        return prepared(model, arrays, flat)[0]
    ids = arrays.pop("input_ids", None)
    batch, _ = prepared(model, {**arrays, "encoder_outputs": jnp.asarray(encoder_states(inputs.encoded))}, flat)
    return batch if ids is None else {**batch, "input_ids": jnp.asarray(ids)}
