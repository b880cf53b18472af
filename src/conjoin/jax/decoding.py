"""generate: from a user's call to one compiled program, and its results."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from conjoin.errors import GenerationError
from conjoin.functional.beams import beam_search
from conjoin.functional.cache import empty_cache
from conjoin.functional.ops import Ops
from conjoin.functional.processors import build_processors
from conjoin.functional.reader import Reader
from conjoin.functional.requests import Writing, writing_of
from conjoin.functional.results import check_written, fewer_results
from conjoin.functional.sample import Limits, Written, sample
from conjoin.functional.stack import project, source_pairs
from conjoin.generation import Request
from conjoin.jax import kernels, programs
from conjoin.jax.calls import prepared
from conjoin.jax.ops import OPS
from conjoin.jax.outputs import GenerateOutput, as_encoder_output
from conjoin.jax.programs import How, Net
from conjoin.pretrained import WithGenerationConfig
from conjoin.pretrained.prompt import (
    IN_A_PROGRAM,
    NOT_IN_A_PROGRAM,
    Inputs,
    padding_id,
    padding_mask,
    read_request,
    refuse,
    source_ids,
    take_inputs,
)

if TYPE_CHECKING:
    from conjoin.jax.model import FlaxEncoderDecoderModel

TARGET_BUCKET = 16
"""Room for targets is a multiple of it: few lengths are compiled, and little room is read in vain."""


def write(
    net: Net,
    ops: Ops,
    writing: Writing,
    params: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array],
    rng: jax.Array,
) -> Written:
    """Encoder and decoding loop.

    Args:
        ops: JAX's, or those that call kernels of our own.
        batch: The sources, or encoder_outputs; prompt [B, P], prompt_mask, max_length.
    """
    model = net.scope(params, ops=ops)
    encoded = programs.encode_with(model, net, How(), batch).last_hidden_state
    decoder, prompt = net.pair.decoder, batch["prompt"]
    source_mask = batch.get("attention_mask")
    source_mask = None if source_mask is None else source_mask.astype(jnp.bool_)
    prompt_mask = batch.get("prompt_mask")
    prompt_mask = None if prompt_mask is None else prompt_mask.astype(jnp.bool_)
    cross = source_pairs(model / "decoder", decoder, project(model, net.pair, encoded))
    dtype = model["decoder.embed.words.weight"].dtype
    padded = prompt_mask is not None
    cache = empty_cache(ops, decoder, prompt.shape[0], writing.room, dtype, cross, padded=padded)
    reader = Reader(model / "decoder", decoder, source_mask)
    limits = Limits(room=writing.room, max_length=batch["max_length"], eos=writing.eos, pad=writing.pad)
    process = build_processors(ops, writing.plan, writing.context(ops, batch, source_mask))
    chance = rng if writing.draws else None
    if writing.beams is not None:
        return beam_search(reader, cache, prompt, prompt_mask, limits, writing.beams, process, chance)
    return sample(reader, cache, prompt, prompt_mask, limits, process, chance, writing.copies)


write_jit = partial(jax.jit, static_argnums=(0, 1, 2))(write)


class Generates(WithGenerationConfig):
    """A model with generation settings."""

    def can_generate(self) -> bool:
        """Always."""
        return True

    def generate(
        self,
        input_ids: Any = None,
        generation_config: Any | None = None,
        prng_key: Any = None,
        trace: bool = True,
        params: Mapping[str, Any] | None = None,
        logits_processor: Sequence[Callable[..., Any]] | None = None,
        **keywords: Any,
    ) -> GenerateOutput:
        """Write a target for every source: greedily, sampled or by beams, in one compiled program.

        It may also be called inside the caller's own jax.jit or pmap, parameters as their argument or set before; the
        result is padded to the longest length there, and -1 stands where a row could not go on.

        Args:
            input_ids: Source ids [B, S], JAX's or numpy's.
            prng_key: What words are drawn with; jax.random.key(0) if missing, as in transformers.
            trace: False runs the loop in Python, uncompiled, to debug.
            logits_processor: The caller's own, each called with (ids [R, L], scores [R, V], length) on traced arrays.
            keywords: Settings by name; and attention_mask, decoder_input_ids (a prefix of the target),
                decoder_attention_mask, encoder_outputs, inputs_embeds, token_type_ids, position_ids.

        Returns:
            `sequences` [B * num_return_sequences, t], start id included, the pad id behind their ends; of beams also
            `scores`. Beams return each hypothesis once: where a source has fewer, `results_per_source` says so.

        Raises:
            GenerationError: settings that are unknown, contradict each other or cannot be honoured here, or that leave
                a row no token; or scores that are not numbers.
        """
        model = cast("FlaxEncoderDecoderModel", self)
        input_ids, callers = source_ids(input_ids, keywords), tuple(logits_processor or ())
        flat = model.flat_params if params is None else model.flat(params)
        key = _key(prng_key)
        if any(isinstance(x, Tracer) for x in jax.tree.leaves((input_ids, keywords, flat, key))):
            return _traced(model, input_ids, generation_config, callers, flat, key, keywords)
        model.warn_of_fresh(lambda: model.all_params(None if params is None else flat))
        given = take_inputs(input_ids, keywords, "JAX")
        request, prompt, prompt_mask = read_request(model, model.spec.decoder, given, keywords, generation_config)
        returned = request.num_return_sequences
        if request.lengths.longest == prompt.shape[1]:
            return GenerateOutput(sequences=jnp.repeat(jnp.asarray(prompt), returned, axis=0))
        multiple = TARGET_BUCKET if model.bucket_size > 1 else 1
        writing = writing_of(request, model.spec.decoder, multiple, callers, "JAX")
        batch = _batch(model, given, flat, request)
        batch |= {"prompt": jnp.asarray(prompt), "max_length": jnp.int32(request.lengths.longest)}
        if prompt_mask is not None:
            batch["prompt_mask"] = jnp.asarray(prompt_mask)
        ops = OPS
        if kernels.take(flat.values()):
            ops = kernels.OPS
        elif prompt.shape[0] * writing.rows > 1:
            flat |= model.turned.of(flat)
        if trace:
            written = write_jit(model.net, ops, writing, flat, batch, key)
        else:
            with jax.disable_jit():
                arrays = {n: jnp.asarray(x) for n, x in batch.items()}
                written = write(model.net, ops, writing, flat, arrays, key)
        check_written(written.fault, writing, prompt.shape[1])
        return _result(written, returned)


def _key(given: Any) -> jax.Array:
    """What words are drawn with.

    Raises:
        GenerationError: it is no key.
    """
    if isinstance(given, int):
        raise GenerationError(f"prng_key = {given}; expected a key.", hint=f"prng_key=jax.random.key({given})")
    return jax.random.key(0) if given is None else given


def _traced(
    model: "FlaxEncoderDecoderModel",
    input_ids: Any,
    config: Any | None,
    callers: tuple[Callable[..., Any], ...],
    flat: dict[str, jax.Array],
    key: jax.Array,
    keywords: dict[str, Any],
) -> GenerateOutput:
    """generate inside somebody's jit: shapes must not depend on what is written."""
    refuse(keywords, "JAX")
    arrays = {n: x for n in IN_A_PROGRAM if (x := keywords.pop(n, None)) is not None}
    if wrong := [name for name in NOT_IN_A_PROGRAM if keywords.get(name) is not None]:
        raise GenerationError(
            f"In a jitted function, generate takes input_ids, {', '.join(IN_A_PROGRAM)}; it got {', '.join(wrong)}.",
            hint="call model.generate(...) outside of it: it is compiled by itself.",
        )
    if input_ids is None:
        raise GenerationError("generate() got no source.", hint="model.generate(input_ids)")
    rows = jnp.shape(input_ids)[0]
    request, prompt, _ = read_request(model, model.spec.decoder, Inputs(ids=np.zeros((rows, 1))), keywords, config)
    returned = request.num_return_sequences
    if request.lengths.longest == prompt.shape[1]:
        return GenerateOutput(sequences=jnp.repeat(jnp.asarray(prompt), returned, axis=0))
    writing = writing_of(request, model.spec.decoder, 1, callers, "JAX")
    pad = padding_id(model.config)
    if "attention_mask" not in arrays and pad is not None:
        arrays["attention_mask"] = jnp.asarray(input_ids) != pad
    batch, _ = prepared(model, {"input_ids": input_ids, **arrays}, flat)
    batch |= {"prompt": jnp.asarray(prompt), "max_length": jnp.int32(request.lengths.longest)}
    return _told(write(model.net, OPS, writing, flat, batch, key), writing, returned)


def _told(written: Written, writing: Writing, returned: int) -> GenerateOutput:
    """What is written, in shapes that do not depend on it: pads and a score of -inf where there is no hypothesis."""
    fault = written.fault
    where = jnp.abs(fault).reshape(-1, *[1] * (written.ids.ndim - 1))
    stuck = (where > 0) & (jnp.arange(writing.room) >= where)
    ids = jnp.where(stuck, -1, written.ids)
    if written.scores is None or written.filled is None:
        return GenerateOutput(sequences=ids)
    held = written.filled[:, :returned]
    ids = jnp.where(held[..., None] | (where > 0), ids[:, :returned], writing.pad)
    return GenerateOutput(
        sequences=ids.reshape(-1, writing.room),
        scores=jnp.where(held, written.scores[:, :returned], -jnp.inf).reshape(-1),
        results_per_source=held.sum(1),
    )


def _result(written: Written, returned: int) -> GenerateOutput:
    """What is written, cut to the longest; of beams the best `returned` of every source, or as many as there are."""
    if written.scores is None:
        return GenerateOutput(sequences=written.ids[:, : int(written.lengths)])
    ids, lengths, scores = (x[:, :returned] for x in (written.ids, written.lengths, written.scores))
    held, counts = fewer_results(written.filled, returned)
    if counts is not None:
        longest = int(lengths[held].max())
        per_source = jnp.asarray(counts)
        return GenerateOutput(sequences=ids[held][:, :longest], scores=scores[held], results_per_source=per_source)
    longest = int(lengths.max())
    return GenerateOutput(sequences=ids[:, :, :longest].reshape(-1, longest), scores=scores.reshape(-1))


def _batch(
    model: "FlaxEncoderDecoderModel", given: Inputs, flat: Mapping[str, jax.Array], request: Request
) -> dict[str, Any]:
    """The sources as the program takes them, padded to their bucket."""
    given = given.cut(model.spec.encoder.max_positions if request.truncation else None)
    source = given.arrays()
    if given.mask is None and given.ids is not None:
        source["attention_mask"] = padding_mask(model.config, given.ids)
    if given.encoded is not None:
        states = as_encoder_output(given.encoded).last_hidden_state
        ids = source.pop("input_ids", None)
        batch, _ = prepared(model, {**source, "encoder_outputs": states}, flat)
        return batch if ids is None else {**batch, "input_ids": jnp.asarray(ids)}
    return prepared(model, source, flat)[0]
