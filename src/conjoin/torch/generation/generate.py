"""generate: from a user's call to the loop that its mode asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from conjoin.errors import GenerationError
from conjoin.generation import (
    Assisted,
    BeamMode,
    BeamSampling,
    BeamSearch,
    ConstrainedBeams,
    Contrastive,
    CopySpeculation,
    DeadEnd,
    DiverseBeams,
    Greedy,
    Outputs,
    Request,
    Sampling,
    Stream,
    dead_end_error,
    tell_fewer,
)
from conjoin.generation.prompt import ModelInputs, read_request
from conjoin.torch.cpu.clock import timed
from conjoin.torch.cpu.native.decode import Requests, Search
from conjoin.torch.generation.loop import Control, Decoded, Limits, Streamer, Trace
from conjoin.torch.generation.loops import native
from conjoin.torch.generation.loops.beam_search import beam_search
from conjoin.torch.generation.loops.beams import BeamRules
from conjoin.torch.generation.loops.constrained import constrained_beam_search
from conjoin.torch.generation.loops.contrastive import contrastive_search
from conjoin.torch.generation.loops.copying import copy_reader
from conjoin.torch.generation.loops.diverse import diverse_beam_search
from conjoin.torch.generation.loops.drafters import CopyDrafter, Drafter, ModelDrafter, check_assistant
from conjoin.torch.generation.loops.sample import sample
from conjoin.torch.generation.loops.speculative import speculate
from conjoin.torch.generation.model import Seq2SeqModel
from conjoin.torch.generation.outputs import GenerateOutput, output_of
from conjoin.torch.generation.processors.build import build_processors
from conjoin.torch.generation.prompt import encode, take_tensors, target_prompt, to_numpy, usable_cache
from conjoin.torch.generation.reader import Reader, Sources
from conjoin.torch.generation.select import Generators
from conjoin.torch.generation.stopping import build_stopping
from conjoin.torch.generation.watch import Watch
from conjoin.torch.model.cache import KVCache, as_cache
from conjoin.torch.model.outputs import EncoderOutput

DrafterFor = Callable[[int, Sources, Tensor | None], Drafter]
"""Makes the drafter of one source; given its index and the mask of its prompt."""

LONGEST_COPY = 16
"""Words of the longest copied draft, where the caller does not say."""

GPU_PATIENCE = 8
"""Steps between two looks at a GPU's finished rows: a look waits for the device, eight steps of pads cost less."""


def generate(
    model: Seq2SeqModel,
    inputs: Tensor | None = None,
    generation_config: Any | None = None,
    logits_processor: Any | None = None,
    stopping_criteria: Any | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    assistant_model: Seq2SeqModel | None = None,
    streamer: Streamer | None = None,
    *,
    tokenizer: Any | None = None,
    generator: Generators = None,
    **keywords: Any,
) -> Int[Tensor, "R t"] | GenerateOutput:
    """See EncoderDecoderModel.generate."""
    callers = Callers(
        logits_processor, stopping_criteria, prefix_allowed_tokens_fn, None, tokenizer, assistant_model, generator
    )
    if streamer is None:
        return Run.of(model, inputs, generation_config, callers, keywords).finish()
    with Stream(streamer) as stream:
        callers = replace(callers, streamer=stream)
        return Run.of(model, inputs, generation_config, callers, keywords).finish()


def generate_results(
    model: Seq2SeqModel,
    *,
    generation_config: Any | None = None,
    tokenizer: Any | None = None,
    generator: Generators = None,
    **keywords: Any,
) -> Decoded:
    """See EncoderDecoderModel.generate_results."""
    callers = Callers(None, None, None, None, tokenizer, None, generator)
    with torch.inference_mode():
        return Run.of(model, None, generation_config, callers, keywords).decoded()


@dataclass(frozen=True, slots=True)
class Callers:
    """What the caller gives to be called."""

    processors: Any | None
    criteria: Any | None
    prefix_fn: Callable[[int, Tensor], list[int]] | None
    streamer: Streamer | None
    tokenizer: Any | None
    assistant: Seq2SeqModel | None
    generators: Generators = None

    @property
    def any(self) -> bool:
        """Whether something is called that must not see what cannot go on."""
        return any(each is not None for each in (self.processors, self.criteria, self.prefix_fn, self.streamer))


class Run:
    """One call of generate: its checked request, then what its sources became, then its results.

    Attributes:
        reads_later: Leave it to the caller to let the kernels compute what is read of the sources.
    """

    def __init__(
        self,
        model: Seq2SeqModel,
        inputs: ModelInputs,
        request: Request,
        prompt: Int[Tensor, "B P"],
        prompt_mask: Tensor | None,
        callers: Callers,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.callers = callers
        self.traces: list[Trace] = []
        self.request = request
        self.prompt = prompt
        self.prompt_mask = prompt_mask
        self.readers: list[Reader] = []
        self.limits = Limits(
            prompt=prompt.shape[1],
            max_length=request.lengths.longest,
            eos=request.tokens.eos,
            pad=request.tokens.pad if request.tokens.pad is not None else 0,
        )
        self.cache: KVCache | None = None
        self.reads_later = False
        self._sources: tuple[Sources, EncoderOutput] | None = None

    @classmethod
    def of(
        cls,
        model: Seq2SeqModel,
        inputs: Tensor | None,
        generation_config: Any | None,
        callers: Callers,
        keywords: dict[str, Any],
    ) -> "Run":
        """Check a call's arguments.

        Raises:
            GenerationError, ShapeError: they cannot be honoured.
        """
        given = take_tensors(inputs, keywords)
        request, start = read_request(
            given,
            model.decoder.spec,
            model.config,
            model.generation_config,
            keywords,
            generation_config,
            to_numpy=to_numpy,
            tokenizer=callers.tokenizer is not None,
            assistant=callers.assistant is not None,
            prefix_allowed_tokens_fn=callers.prefix_fn is not None,
            streamer=callers.streamer is not None,
        )
        prompt, prompt_mask = target_prompt(given, start, model.device)
        if isinstance(callers.generators, Sequence) and len(callers.generators) != given.batch_size:
            raise GenerationError(
                f"generator is a list of {len(callers.generators)} for {given.batch_size} sources; expected one each."
            )
        if callers.streamer is not None and given.batch_size * request.num_return_sequences > 1:
            raise GenerationError(
                f"A streamer follows one result, but {given.batch_size} sources with {request.num_return_sequences} "
                "results each are asked for.",
                hint="call generate() source by source, or leave the streamer out.",
            )
        return cls(model, given, request, prompt, prompt_mask, callers)

    def finish(self) -> Int[Tensor, "R t"] | GenerateOutput:
        """Encode the sources, decode, and return what the call asked for."""
        request = self.request
        # Tensors made in inference mode cannot enter training again: ids are cloned outside, all else is made without.
        with torch.no_grad() if request.outputs.as_dict else torch.inference_mode():
            decoded = self.decoded()
        if not request.outputs.as_dict:
            return decoded.sequences.clone()
        returned = request.num_return_sequences
        return output_of(request.outputs, decoded, self.encoded, self.traces, self.readers, returned)

    def decoded(self) -> Decoded:
        """Encode the sources and decode; warn if a source has fewer results than requested."""
        self.encode()
        return self.told(self.decode())

    def told(self, decoded: Decoded) -> Decoded:
        """Return results; warn if a source has fewer than requested."""
        tell_fewer(decoded.counts, self.request.num_return_sequences)
        return decoded

    def encode(self) -> None:
        """Run the encoder, unless its output is given."""
        request = self.request
        self._sources = encode(self.model, self.inputs, request.outputs, truncation=request.truncation)
        self.cache = usable_cache(as_cache(self.inputs.cache), self.prompt, request.mode)

    @property
    def source_tokens(self) -> int:
        """Number of source tokens, padding included."""
        return self.inputs.source.shape[0] * self.inputs.source.shape[1]

    @cached_property
    def cache_bytes(self) -> int:
        """Bytes of the cache that the call will fill, its longest results assumed."""
        kind, number = self.model.decoder.spec, self.model.decoder.embed.words.weight.element_size()
        number = 1 if self.request.cache == "quantized" else number
        rows, total = len(self.prompt) * self.request.rows_per_source, 0
        for attention in (kind.blocks[index].self_attn.attention for index in kind.weights_of):
            total += 2 * attention.num_kv_heads * attention.head_size * rows * self.limits.max_length
        for attention in kind.source_attention:
            total += 2 * attention.num_kv_heads * attention.head_size * self.source_tokens
        return total * number

    @property
    def is_encoded(self) -> bool:
        """True once the encoder has run."""
        return self._sources is not None

    @property
    def sources(self) -> Sources:
        """What the encoder made of the inputs."""
        assert self._sources is not None
        return self._sources[0]

    @property
    def encoded(self) -> EncoderOutput:
        """The encoder's output."""
        assert self._sources is not None
        return self._sources[1]

    @timed("selection")
    def decode(self) -> Decoded:
        """Run the loop of the request's mode."""
        request, prompt, limits, mask = self.request, self.prompt, self.limits, self.prompt_mask
        returned, control = request.num_return_sequences, self.control()
        if limits.max_length == limits.prompt:
            return self._nothing_new(control)
        match request.mode:
            case Assisted() | CopySpeculation():
                return self._speculate(request.mode, control)
            case Greedy() | BeamSearch() if (found := self._decode_natively(control)) is not None:
                return found
            case Greedy():
                return sample(self.reader(), prompt, limits, control, randomly=False, mask=mask)
            case Sampling():
                return sample(self.reader(), prompt, limits, control, randomly=True, copies=returned, mask=mask)
            case BeamSearch() | BeamSampling():
                return beam_search(self.reader(), prompt, self.rules(), control, returned=returned, mask=mask)
            case DiverseBeams(num_beam_groups=groups):
                rules = self.rules()
                return diverse_beam_search(
                    self.reader(), prompt, rules, control, groups=groups, returned=returned, mask=mask
                )
            case ConstrainedBeams(constraints=constraints):
                rules = self.rules()
                return constrained_beam_search(
                    self.reader(), prompt, rules, control, constraints, returned=returned, mask=mask
                )
            case Contrastive(penalty_alpha=alpha, top_k=k):
                k = min(k, self.model.decoder.spec.vocab_size)
                return contrastive_search(self.reader(), prompt, limits, control, alpha=alpha, k=k, mask=mask)

    def _decode_natively(self, control: Control) -> Decoded | None:
        """The results of a greedy or beam search by our kernels; None if something must see each step."""
        requests = self.native_requests(control)
        if requests is None:
            return None
        native.finish(self.readers[-1], requests)
        return native.result_of(requests, control, self.request.num_return_sequences)

    def native_requests(self, control: Control, *, hands_out: bool = False) -> Requests | None:
        """A request of the kernels for each source; None if they cannot run it.

        Args:
            hands_out: The caller chooses the tokens, by scores that no processor has edited; a request of beams cannot
                do that. Else None is returned, too, where something must see each step.
        """
        rules, mode, limits = [] if hands_out else control.rules, self.request.mode, self.limits
        if rules is None or self.prompt_mask is not None or self.cache is not None:
            return None
        kind: dict[str, Any] = {}
        if isinstance(mode, BeamSearch) and not hands_out:
            kind = {name: getattr(mode, name) for name in ("num_beams", "length_penalty", "early_stopping")}
        elif hands_out and isinstance(mode, Greedy | Sampling):
            kind = {"hands_out": True, "copies": self.request.num_return_sequences}
        elif not isinstance(mode, Greedy):
            return None
        search = Search(
            prompt=limits.prompt, limit=limits.max_length, eos=limits.eos, pad=limits.pad, rules=rules, **kind
        )
        reader = self.reader()
        requests = native.begin(reader, self.prompt, search)
        if requests is None:
            self.readers.remove(reader)
        return requests

    def _nothing_new(self, control: Control) -> Decoded:
        """The prompts, where no token may follow them."""
        sequences = self.prompt.repeat_interleave(self.request.num_return_sequences, 0)
        beams = isinstance(self.request.mode, BeamMode)
        control.end_stream()
        return Decoded(
            sequences=sequences,
            scores=torch.zeros(len(sequences), device=sequences.device) if beams else None,
            origins=sequences[:, :0] if beams else None,
        )

    def reader(self, sources: Sources | None = None) -> Reader:
        """The model's decoder, reading these sources."""
        outputs = self.request.outputs
        reader = Reader(
            self.model.decoder,
            sources or self.sources,
            room=self.limits.max_length,
            quantized=self.request.cache == "quantized",
            cache=self.cache,
            wants_attentions=outputs.attentions,
            wants_hidden_states=outputs.hidden_states,
            returned=outputs.as_dict,
            reads_later=self.reads_later,
        )
        self.readers.append(reader)
        return reader

    def control(self) -> Control:
        """What the loop over all sources calls at each step."""
        request, callers, device = self.request, self.callers, self.prompt.device
        processors = build_processors(
            request.plan,
            source_ids=self.sources.ids,
            source_mask=self.sources.mask,
            prompt_mask=self.prompt_mask,
            num_sources=len(self.prompt),
            rows_per_source=request.rows_per_source,
            prefix_allowed_tokens_fn=callers.prefix_fn,
            custom=callers.processors,
            device=device,
        )
        shows_steps = callers.any or request.outputs.as_dict  # what runs behind the end would be seen
        patience = 1 if device.type == "cpu" or shows_steps else GPU_PATIENCE
        stops = build_stopping(request, tokenizer=callers.tokenizer, extra=callers.criteria)
        if callers.streamer is not None:
            callers.streamer.put(self.prompt.cpu())
        return Control(
            process=processors if len(processors) else None,
            stops=stops if len(stops) else None,
            streamer=callers.streamer,
            trace=self.trace(),
            patience=patience,
            watch=Watch(self._dead_ends, patience),
            generators=callers.generators,
        )

    def _dead_ends(self, ends: list[DeadEnd]) -> Exception:
        custom = bool(self.callers.processors)
        return dead_end_error(ends, self.request.plan, prompt=self.limits.prompt, custom=custom)

    def trace(self) -> Trace:
        """A new trace of what the request wants collected."""
        outputs = self.request.outputs
        trace = Trace(
            scores=[] if outputs.scores else None,
            logits=[] if outputs.logits else None,
            origins=outputs.as_dict and isinstance(self.request.mode, BeamMode),
            attentions=outputs.attentions,
            hidden_states=outputs.hidden_states,
            rows=outputs.as_dict,
        )
        self.traces.append(trace)
        return trace

    def rules(self) -> BeamRules:
        """The request's beam rules."""
        mode = self.request.mode
        assert isinstance(mode, BeamMode)
        return BeamRules(
            num_beams=mode.num_beams,
            vocab_size=self.model.decoder.spec.vocab_size,
            max_length=self.limits.max_length,
            prompt=self.limits.prompt,
            eos=self.limits.eos,
            pad=self.limits.pad,
            length_penalty=mode.length_penalty,
            early_stopping=mode.early_stopping,
            sample=isinstance(mode, BeamSampling),
        )

    def _speculate(self, mode: Assisted | CopySpeculation, control: Control) -> Decoded:
        """Sources one after another: each accepts drafts at its own pace."""
        if len(self.sources) > 1 and (control.trace.attentions or control.trace.hidden_states):
            raise GenerationError(
                f"Drafts for {len(self.sources)} sources: their attentions and hidden states have no common steps.",
                hint="call generate() source by source, or leave output_attentions and output_hidden_states out.",
            )
        self.traces.clear()
        rows: list[Tensor] = []
        drafter_for = self._copies(mode) if isinstance(mode, CopySpeculation) else self._assistant(mode)
        for index in range(len(self.sources)):
            source, one = self.sources.pick(index), slice(index, index + 1)
            mask = None if self.prompt_mask is None else self.prompt_mask[one]
            decoded = speculate(
                self.reader(source),
                self.prompt[one],
                self.limits,
                control.for_source(index, self.trace()),
                drafter_for(index, source, mask),
                randomly=isinstance(mode.base, Sampling),
                mask=mask,
            )
            rows.append(decoded.sequences[0])
        return Decoded(sequences=pad_sequence(rows, batch_first=True, padding_value=self.limits.pad))

    def _copies(self, mode: CopySpeculation) -> DrafterFor:
        words = copy_reader(self.model)
        most = mode.num_tokens or LONGEST_COPY
        return lambda index, source, _: CopyDrafter(words(source), longest=mode.max_matching_ngram_size, most=most)

    def _assistant(self, mode: Assisted) -> DrafterFor:
        assert self.callers.assistant is not None
        assistant, outputs, truncation = self.callers.assistant, Outputs(), self.request.truncation
        check_assistant(self.model, assistant, self.sources)
        generators = self.callers.generators

        def drafter(index: int, source: Sources, mask: Tensor | None) -> Drafter:
            read, _ = encode(assistant, ModelInputs(ids=source.ids, mask=source.mask), outputs, truncation=truncation)
            return ModelDrafter(
                Reader(assistant.decoder, read, room=self.limits.max_length),
                mask,
                size=mode.num_assistant_tokens,
                randomly=isinstance(mode.base, Sampling),
                constant=mode.schedule == "constant",
                confidence=mode.confidence_threshold,
                generator=generators[index] if isinstance(generators, Sequence) else generators,
            )

        return drafter
