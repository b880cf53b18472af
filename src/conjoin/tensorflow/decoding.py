"""generate: from a user's call to one program, traced once, and its results."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf

from conjoin.errors import GenerationError
from conjoin.functional.beams import beam_search
from conjoin.functional.inputs import bucket, padding_filler
from conjoin.functional.ops import Ops
from conjoin.functional.processors import build_processors
from conjoin.functional.reader import Reader, step_matrices
from conjoin.functional.requests import Writing, writing_of
from conjoin.functional.results import check_written, fewer_results
from conjoin.functional.sample import Limits, Written, sample
from conjoin.functional.scope import Scope
from conjoin.generation import GenerationConfig, Request
from conjoin.pretrained import WithGenerationConfig
from conjoin.pretrained.prompt import (
    IN_A_PROGRAM,
    NOT_IN_A_PROGRAM,
    Inputs,
    encoder_states,
    padding_id,
    padding_mask,
    read_request,
    refuse,
    source_ids,
    take_inputs,
)
from conjoin.tensorflow import kernels
from conjoin.tensorflow.calls import is_known, prepared
from conjoin.tensorflow.ops import OPS
from conjoin.tensorflow.outputs import GenerateOutput
from conjoin.tensorflow.programs import How, Net, encode, start_cache

if TYPE_CHECKING:
    from conjoin.tensorflow.model import TFEncoderDecoderModel

Arrays = Mapping[str, Any]

SOURCE_BUCKET, TARGET_BUCKET = 64, 16
"""XLA compiles for multiples of them; room for targets is a multiple of the second in any case."""


class Programs:
    """Traced functions by what they were traced for. Keras must not see them as parts of the model."""

    def __init__(self) -> None:
        self.held: dict[Any, Any] = {}


def write(net: Net, writing: Writing, model: Scope, batch: Arrays, rng: Any) -> Written:
    """Encoder and decoding loop.

    Args:
        batch: The sources, or encoder_outputs; prompt [B, P], prompt_mask, max_length.
        rng: Random state [2].
    """
    decoder, prompt = net.pair.decoder, batch["prompt"]
    states = encode(net, How(), model, batch).last_hidden_state
    source_mask, prompt_mask = (_bool(batch.get(name)) for name in ("attention_mask", "prompt_mask"))
    cache = start_cache(net, OPS.shape(prompt)[0], writing.room, model, states, padded=prompt_mask is not None)
    reader = Reader(model / "decoder", decoder, source_mask)
    limits = Limits(room=writing.room, max_length=batch["max_length"], eos=writing.eos, pad=writing.pad)
    process = build_processors(OPS, writing.plan, writing.context(OPS, batch, source_mask))
    chance = rng if writing.draws else None
    if writing.beams is not None:
        return beam_search(reader, cache, prompt, prompt_mask, limits, writing.beams, process, chance)
    return sample(reader, cache, prompt, prompt_mask, limits, process, chance, writing.copies)


def _bool(mask: Any) -> Any:
    return None if mask is None else tf.cast(mask, tf.bool)


class Generates(WithGenerationConfig):
    """A model with generation settings."""

    _programs: Programs

    def can_generate(self) -> bool:
        """Always."""
        return True

    def generate(
        self,
        input_ids: Any = None,
        generation_config: Any | None = None,
        logits_processor: Sequence[Callable[..., Any]] | None = None,
        seed: Any = None,
        *,
        jit_compile: bool = False,
        **keywords: Any,
    ) -> Any:
        """Write a target for every source: greedily, sampled or by beams.

        The loop is traced once per kind of request and serves every batch and length. It may also be called inside the
        caller's own tf.function, compiled or not; the result is padded to the longest length there.

        Args:
            input_ids: Source ids [B, S], TensorFlow's or numpy's.
            logits_processor: The caller's own, each called with (ids [R, L], scores [R, V], length) on traced tensors.
            seed: What words are drawn with; from tf.random's state if missing.
            jit_compile: Compile with XLA, once per batch size and multiple of 64 source positions: slower at first,
                faster then.
            keywords: Settings by name; and attention_mask, decoder_input_ids (a prefix of the target),
                decoder_attention_mask, encoder_outputs, inputs_embeds, token_type_ids, position_ids.

        Returns:
            Ids [B * num_return_sequences, t], start id included, the pad id behind their ends; with
            return_dict_in_generate=True an output with `sequences` and, of beams, `sequences_scores`.

        Beams return each hypothesis once: where a source has fewer, `results_per_source` says so, and inside a
        tf.function the places left over hold pads and a score of -inf.

        Raises:
            GenerationError: settings that are unknown, contradict each other or cannot be honoured here, or that leave
                a row no token; or scores that are not numbers. Inside a tf.function, InvalidArgumentError; inside one
                compiled with XLA, which knows no errors, -1 in the place of the tokens.
        """
        model, callers = cast("TFEncoderDecoderModel", self), tuple(logits_processor or ())
        input_ids = source_ids(input_ids, keywords)
        if tf.inside_function() or not is_known(input_ids) or not all(is_known(x) for x in keywords.values()):
            return _traced(model, input_ids, generation_config, callers, seed, keywords)
        model.warn_of_fresh(model.all_params)
        given = take_inputs(input_ids, keywords, "TensorFlow")
        request, prompt, prompt_mask = read_request(model, model.spec.decoder, given, keywords, generation_config)
        returned, as_dict = request.num_return_sequences, request.outputs.as_dict
        if request.lengths.longest == prompt.shape[1]:
            return _result(GenerateOutput(sequences=tf.constant(np.repeat(prompt, returned, axis=0))), as_dict)
        writing = writing_of(request, model.spec.decoder, TARGET_BUCKET, callers, "TensorFlow")
        batch = _batch(model, given, request, widen=jit_compile)
        batch |= {"prompt": tf.constant(prompt), "max_length": tf.constant(request.lengths.longest)}
        if prompt_mask is not None:
            batch["prompt_mask"] = tf.constant(prompt_mask, tf.int32)
        ops = OPS
        if jit_compile and kernels.take(variable.value for variable in model._held.table.values()):
            ops = kernels.OPS
        run = program(model, writing, batch, jit_compile=jit_compile, ops=ops)
        more = turned(model) if jit_compile and ops is OPS and prompt.shape[0] * writing.rows > 1 else {}
        written = run(batch, random_state(seed), more)
        check_written(written.fault, writing, prompt.shape[1])
        return _result(_cut(written, returned), as_dict)


def program(
    model: "TFEncoderDecoderModel", writing: Writing, batch: Arrays, *, jit_compile: bool, ops: Ops = OPS
) -> Any:
    """The traced function of such requests. Lengths and batch are left open where that is possible."""
    still = jit_compile or any(spec.name == "encoder_no_repeat_ngram_size" for spec in writing.plan)
    kinds = tuple((name, x.shape.rank, x.dtype) for name, x in sorted(batch.items()))
    key = (writing, jit_compile, ops, still, kinds, batch["prompt"].shape[1])
    held = model._programs.held
    if key not in held:

        def run(batch: Arrays, rng: Any, turned: Arrays) -> Any:
            return write(model.net, writing, model.scope(turned=turned, ops=ops), batch, rng)

        signature = None if still else [_specs(batch), tf.TensorSpec((2,), tf.int32), {}]
        held[key] = tf.function(run, input_signature=signature, autograph=False, jit_compile=jit_compile)
    return held[key]


def turned(model: "TFEncoderDecoderModel") -> dict[str, Any]:
    """Copies as (in, out) of the matrices that every step multiplies by, as they are now.

    On a CPU, XLA multiplies two or more rows by them about twice as fast as by (out, in); some ten steps pay for the
    copies. They cannot be held: a variable does not tell that it was changed. Turning inside the program does not help,
    XLA turns back.
    """
    held = model._programs.held
    if turned not in held:
        matrices = step_matrices(model.spec, model.net.ties)

        def run() -> dict[str, Any]:
            return {copy: tf.transpose(model._held.table[name].value) for copy, name in matrices.items()}

        held[turned] = tf.function(run, autograph=False)
    return held[turned]()


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


def _result(output: GenerateOutput, as_dict: bool) -> Any:
    return output if as_dict else output.sequences


def _cut(written: Written, returned: int) -> GenerateOutput:
    """What is written, cut to the longest; of beams the best `returned` of every source, or as many as there are."""
    if written.scores is None:
        return GenerateOutput(sequences=written.ids[:, : written.lengths])
    held, counts = fewer_results(written.filled, returned)
    ids, lengths, scores = (x[:, :returned] for x in (written.ids, written.lengths, written.scores))
    sequences = tf.boolean_mask(ids, held)[:, : tf.reduce_max(tf.boolean_mask(lengths, held))]
    per_source = None if counts is None else tf.constant(counts, tf.int32)
    return GenerateOutput(
        sequences=sequences, sequences_scores=tf.boolean_mask(scores, held), results_per_source=per_source
    )


def told(written: Written, writing: Writing, returned: int) -> dict[str, Any]:
    """What a program that others run returns of what is written, in shapes that do not depend on it.

    A row that cannot go on is an error where the program is not compiled by XLA, which knows none; there -1 stands in
    it from that place on. A place without a hypothesis holds pads and a score of -inf.
    """
    fault = written.fault
    stuck = tf.debugging.Assert(
        tf.reduce_all(fault == 0),
        ["Generation cannot go on: every token is forbidden, or scores are not numbers.", fault],
    )
    with tf.control_dependencies([] if stuck is None else [stuck]):
        ids = tf.identity(written.ids)
    where = tf.reshape(tf.abs(fault), (-1, *[1] * (ids.shape.rank - 1)))
    ids = tf.where((where > 0) & (tf.range(writing.room) >= where), -1, ids)
    if written.scores is None or written.filled is None:
        return {"sequences": ids}
    held = written.filled[:, :returned]
    ids = tf.where(held[..., None] | (where > 0), ids[:, :returned], writing.pad)
    return {
        "sequences": tf.reshape(ids, (-1, writing.room)),
        "sequences_scores": tf.reshape(tf.where(held, written.scores[:, :returned], -math.inf), (-1,)),
        "results_per_source": tf.reduce_sum(tf.cast(held, tf.int32), 1),
    }


def _batch(model: "TFEncoderDecoderModel", given: Inputs, request: Request, *, widen: bool) -> dict[str, Any]:
    """The sources as the program takes them."""
    given = given.cut(model.spec.encoder.max_positions if request.truncation else None)
    source = {name: x for name, x in given.arrays().items() if x is not None}
    if given.mask is None and given.ids is not None:
        mask = padding_mask(model.config, given.ids)
        source |= {} if mask is None else {"attention_mask": mask}
    if given.encoded is not None:
        ids = source.pop("input_ids", None)
        batch = prepared({**source, "encoder_outputs": encoder_states(given.encoded)}, model.spec)
        return batch if ids is None else {**batch, "input_ids": tf.constant(ids, tf.int32)}
    if widen:
        source = _widened(model, source)
    return prepared(source, model.spec)


def _widened(model: "TFEncoderDecoderModel", source: dict[str, Any]) -> dict[str, Any]:
    """Sources padded to a multiple of SOURCE_BUCKET."""
    encoder = model.spec.encoder
    rows, length = (source["input_ids"] if "input_ids" in source else source["inputs_embeds"]).shape[:2]
    wide = bucket(length, SOURCE_BUCKET, encoder.max_positions)
    if wide == length:
        return source
    source = {"attention_mask": np.ones((rows, length), np.int32), **source}
    fillers = {"input_ids": padding_filler(encoder)}

    def widened(name: str, x: np.ndarray) -> np.ndarray:
        room = [(0, 0), (0, wide - length), *[(0, 0)] * (x.ndim - 2)]
        return np.pad(x, room, constant_values=fillers.get(name, 0))

    return {name: widened(name, x) for name, x in source.items()}


def _traced(
    model: "TFEncoderDecoderModel",
    input_ids: Any,
    config: GenerationConfig | None,
    callers: tuple[Callable[..., Any], ...],
    seed: Any,
    keywords: dict[str, Any],
) -> Any:
    """generate inside somebody's tf.function: shapes must not depend on what is written."""
    refuse(keywords, "TensorFlow")
    tensors = {n: x for n in IN_A_PROGRAM if (x := keywords.pop(n, None)) is not None}
    if wrong := [
        name for name, x in keywords.items() if tf.is_tensor(x) or (name in NOT_IN_A_PROGRAM and x is not None)
    ]:
        raise GenerationError(
            f"Inside a tf.function, generate takes input_ids, {', '.join(IN_A_PROGRAM)}; it got {', '.join(wrong)}.",
            hint="call model.generate(...) outside of it: it is traced by itself.",
        )
    if input_ids is None:
        raise GenerationError("generate() got no source.", hint="model.generate(input_ids)")
    input_ids = tf.convert_to_tensor(input_ids)
    rows = input_ids.shape[0] or 1
    facts = Inputs(ids=np.zeros((rows, 1), np.int32))
    request, prompt, _ = read_request(model, model.spec.decoder, facts, keywords, config)
    writing = writing_of(request, model.spec.decoder, 1, callers, "TensorFlow")
    batch = prepared({"input_ids": input_ids, **tensors}, model.spec)
    pad = padding_id(model.config)
    if "attention_mask" not in batch and pad is not None:
        batch["attention_mask"] = tf.cast(batch["input_ids"] != pad, tf.int32)
    batch["max_length"] = tf.constant(request.lengths.longest)
    batch["prompt"] = _prompt_of(prompt, input_ids)
    written = write(model.net, writing, model.scope(), batch, random_state(seed))
    output = told(written, writing, request.num_return_sequences)
    return _result(GenerateOutput(**output), request.outputs.as_dict)


def _prompt_of(prompt: np.ndarray, input_ids: Any) -> Any:
    """The start id of every source, however many there are."""
    if input_ids.shape[0] is not None:
        return tf.constant(prompt)
    return tf.broadcast_to(tf.constant(prompt[:1]), (tf.shape(input_ids)[0], 1))
