"""generate: from a user's call to one program, traced once, and its results."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from conjoin.errors import GenerationError
from conjoin.functional import programs
from conjoin.functional.inputs import SOURCE, check_ids, widened
from conjoin.functional.ops import Ops
from conjoin.functional.reader import step_matrices
from conjoin.functional.requests import DecodeSettings, decode_settings
from conjoin.functional.results import Results, check_written, cut_results, traced_results
from conjoin.functional.sample import Written
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
from conjoin.tensorflow import kernels
from conjoin.tensorflow.calls import is_known, prepared
from conjoin.tensorflow.ops import OPS
from conjoin.tensorflow.outputs import GenerateOutput
from conjoin.tensorflow.variables import VariableModel

Arrays = Mapping[str, Any]
Processors = tuple[Callable[..., Any], ...]

SOURCE_BUCKET, TARGET_BUCKET = 64, 16
"""XLA compiles for multiples of them; room for targets is a multiple of the second in any case."""


def generate(
    model: VariableModel,
    input_ids: Any,
    generation_config: Any | None,
    processors: Processors,
    seed: Any,
    jit_compile: bool,
    kwargs: dict[str, Any],
) -> Any:
    """See TFEncoderDecoderModel.generate."""
    input_ids = source_ids(input_ids, kwargs)
    reject_pytorch_only(kwargs, "TensorFlow")
    if tf.inside_function() or not is_known(input_ids) or not all(is_known(x) for x in kwargs.values()):
        return _generate_traced(model, input_ids, generation_config, processors, seed, kwargs)
    model.warn_of_fresh(model.all_params)
    inputs, decoder = bind_inputs(input_ids, kwargs, as_numpy, "np"), model.spec.decoder
    request, start = read_request(inputs, decoder, model.config, model.generation_config, kwargs, generation_config)
    prompt, prompt_mask = numpy_prompt(inputs, start)
    check_ids({"decoder_input_ids": prompt}, model.spec)
    returned, as_dict = request.num_return_sequences, request.outputs.as_dict
    if request.lengths.longest == prompt.shape[1]:
        return _output(Results(tf.constant(np.repeat(prompt, returned, axis=0))), as_dict)
    settings = decode_settings(request, decoder, TARGET_BUCKET, processors, "TensorFlow")
    batch = _source_batch(model, inputs, request, widen=jit_compile)
    batch |= {"prompt": tf.constant(prompt), "max_length": tf.constant(request.lengths.longest)}
    if prompt_mask is not None:
        batch["prompt_mask"] = tf.constant(np.asarray(prompt_mask != 0, np.int32))
    ops = OPS
    if jit_compile and kernels.can_read(variable.value for variable in model.variables_by_name.table.values()):
        ops = kernels.OPS
    run = program(model, settings, batch, jit_compile=jit_compile, ops=ops)
    copies = transposed(model) if jit_compile and ops is OPS and prompt.shape[0] * settings.rows > 1 else {}
    written = run(batch, random_state(seed), copies)
    check_written(written.fault, settings, prompt.shape[1])
    return _output(cut_results(OPS, written, returned), as_dict)


def program(model: VariableModel, settings: DecodeSettings, batch: Arrays, *, jit_compile: bool, ops: Ops = OPS) -> Any:
    """The traced function of such requests. Lengths and batch are left open where that is possible."""
    fixed = jit_compile or any(spec.name == "encoder_no_repeat_ngram_size" for spec in settings.plan)
    kinds = tuple((name, x.shape.rank, x.dtype) for name, x in sorted(batch.items()))
    key = (settings, jit_compile, ops, fixed, kinds, batch["prompt"].shape[1])
    held = model.programs.held
    if key not in held:

        def run(batch: Arrays, rng: Any, transposed: Arrays) -> Any:
            return programs.generate(model.key, settings, model.scope(transposed=transposed, ops=ops), batch, rng)

        signature = None if fixed else [_specs(batch), tf.TensorSpec((2,), tf.int32), {}]
        held[key] = tf.function(run, input_signature=signature, autograph=False, jit_compile=jit_compile)
    return held[key]


def transposed(model: VariableModel) -> dict[str, Any]:
    """Transposed copies of the matrices that every step multiplies by, as they are now.

    On a CPU, XLA multiplies two or more rows by them about twice as fast as by (out, in); some ten steps pay for the
    copies. They cannot be held: a variable does not tell that it was changed. Transposing inside the program does not
    help, XLA undoes it.
    """
    held = model.programs.held
    if transposed not in held:
        matrices = step_matrices(model.spec, model.key.ties)

        def run() -> dict[str, Any]:
            table = model.variables_by_name.table
            return {copy: tf.transpose(table[name].value) for copy, name in matrices.items()}

        held[transposed] = tf.function(run, autograph=False)
    return held[transposed]()


def _specs(batch: Arrays) -> dict[str, tf.TensorSpec]:
    """Open sizes, but for the prompt's length and the width of vectors."""

    def size(name: str, x: Any) -> list[int | None]:
        kept = {"prompt": 1, "prompt_mask": 1, "encoder_outputs": 2, "inputs_embeds": 2}.get(name)
        return [width if axis == kept else None for axis, width in enumerate(x.shape)]

    return {name: tf.TensorSpec(size(name, x), x.dtype) for name, x in batch.items()}


def random_state(seed: Any) -> Any:
    """A random state [2] of a seed.

    Raises:
        GenerationError: it is neither a number nor two of them.
    """
    if seed is None:
        return tf.random.uniform((2,), maxval=2**31 - 1, dtype=tf.int32)
    state = tf.cast(tf.convert_to_tensor(seed), tf.int32)
    if state.shape.rank == 0:
        return tf.stack((0, state))
    if tuple(state.shape) != (2,):
        raise GenerationError(f"seed has shape {tuple(state.shape)}; expected a number or two of them.")
    return state


def _output(results: Results, as_dict: bool) -> Any:
    return GenerateOutput(**fields_of(results)) if as_dict else results.sequences


def fields_of(results: Results) -> dict[str, Any]:
    """The fields of a GenerateOutput that are there."""
    sequences, scores, per_source = results
    fields = {"sequences": sequences, "sequences_scores": scores, "results_per_source": per_source}
    return {name: x for name, x in fields.items() if x is not None}


def traced_output(written: Written, settings: DecodeSettings, returned: int) -> Results:
    """See `traced_results`; a row that cannot go on is an error where XLA, which knows none, does not compile."""
    fault = written.fault
    stuck = tf.debugging.Assert(
        tf.reduce_all(fault == 0),
        ["Generation cannot go on: every token is forbidden, or scores are not numbers.", fault],
    )
    with tf.control_dependencies([] if stuck is None else [stuck]):
        ids = tf.identity(written.ids)
    return traced_results(OPS, written._replace(ids=ids), settings, returned)


def _columns_at(x: Any, columns: np.ndarray) -> Any:
    return tf.gather(x, columns, batch_dims=1)


def _source_batch(model: VariableModel, inputs: ModelInputs, request: Request, *, widen: bool) -> dict[str, Any]:
    """The sources as the program takes them."""
    encoder = model.spec.encoder
    limit = encoder.max_positions if request.truncation else None
    arrays = inputs.with_mask(model.config).cut(limit, gather=_columns_at).arrays()
    if inputs.encoded is not None:
        ids = arrays.pop("input_ids", None)
        batch = prepared({**arrays, "encoder_outputs": encoder_states(inputs.encoded)}, model.spec)
        return batch if ids is None else {**batch, "input_ids": tf.constant(ids, tf.int32)}
    if widen:
        arrays = widened(arrays, encoder, SOURCE, inputs.source.shape[1], SOURCE_BUCKET)
    return prepared(arrays, model.spec)


def _generate_traced(
    model: VariableModel,
    input_ids: Any,
    config: Any | None,
    processors: Processors,
    seed: Any,
    kwargs: dict[str, Any],
) -> Any:
    """generate inside a function that the user traces: shapes must not depend on what is written."""
    arrays = bind_traced_inputs(input_ids, kwargs, "Inside a tf.function", tf.is_tensor)
    batch = prepared(arrays, model.spec)
    input_ids = batch["input_ids"]
    shape = [size or 1 for size in input_ids.shape]  # an open one is taken to be short
    facts, decoder = ModelInputs(ids=np.zeros(shape, np.int32)), model.spec.decoder
    request, start = read_request(facts, decoder, model.config, model.generation_config, kwargs, config)
    settings = decode_settings(request, decoder, 1, processors, "TensorFlow")
    pad = padding_id(model.config)
    if "attention_mask" not in batch and pad is not None:
        batch["attention_mask"] = tf.cast(input_ids != pad, tf.int32)
    batch["max_length"] = tf.constant(request.lengths.longest)
    batch["prompt"] = _prompt_of(numpy_prompt(facts, start)[0], input_ids)
    written = programs.generate(model.key, settings, model.scope(), batch, random_state(seed))
    results = traced_output(written, settings, request.num_return_sequences)
    return _output(results, request.outputs.as_dict)


def _prompt_of(prompt: np.ndarray, input_ids: Any) -> Any:
    """The start id of every source, however many there are."""
    if input_ids.shape[0] is not None:
        return tf.constant(prompt)
    return tf.broadcast_to(tf.constant(prompt[:1]), (tf.shape(input_ids)[0], 1))
