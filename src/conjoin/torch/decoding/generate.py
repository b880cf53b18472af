"""generate: from a user's call to the loop that its mode asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.generation import (
    Assisted,
    BeamSampling,
    BeamSearch,
    CallFacts,
    ConstrainedBeams,
    Contrastive,
    CopySpeculation,
    DiverseBeams,
    GenerationConfig,
    Greedy,
    ModelFacts,
    Request,
    Sampling,
    collect,
    processor_plan,
    resolve_asked,
    resolve_tokens,
)
from conjoin.generation.plan import HammingDiversity
from conjoin.join import special_tokens
from conjoin.torch.decoding.beam_search import beam_search, diverse_beam_search
from conjoin.torch.decoding.beams import BeamRules
from conjoin.torch.decoding.constrained import constrained_beam_search
from conjoin.torch.decoding.contrastive import contrastive_search
from conjoin.torch.decoding.copying import copy_source
from conjoin.torch.decoding.drafters import CopyDrafter, ModelDrafter
from conjoin.torch.decoding.loop import Control, Decoded, Limits, Streamer, Trace
from conjoin.torch.decoding.outputs import GenerateBeamEncoderDecoderOutput, GenerateEncoderDecoderOutput
from conjoin.torch.decoding.prompt import encode, source_mask, target_prompt
from conjoin.torch.decoding.reader import Reader, Sources
from conjoin.torch.decoding.sample import sample
from conjoin.torch.decoding.speculative import speculate
from conjoin.torch.outputs import EncoderOutput
from conjoin.torch.processors import build_processors
from conjoin.torch.stopping import build_stopping

if TYPE_CHECKING:
    from conjoin.torch.model import EncoderDecoderModel

GenerateOutput = GenerateEncoderDecoderOutput | GenerateBeamEncoderDecoderOutput

ENCODER_KEYWORDS = ("inputs_embeds", "token_type_ids", "position_ids")
GPU_PATIENCE = 8
"""Steps between two looks at a GPU's finished rows: a look waits for the device, eight steps of pads cost less."""


@torch.inference_mode()
def generate(
    model: "EncoderDecoderModel",
    inputs: Int[Tensor, "B S"] | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: Any | None = None,
    stopping_criteria: Any | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    assistant_model: "EncoderDecoderModel | None" = None,
    streamer: Streamer | None = None,
    *,
    tokenizer: Any | None = None,
    **keywords: Any,
) -> Int[Tensor, "R t"] | GenerateOutput:
    """See EncoderDecoderModel.generate."""
    inputs, mask, encoder_outputs, prefix, prefix_mask = _inputs(inputs, keywords)
    encoder_keywords = {name: keywords.pop(name) for name in ENCODER_KEYWORDS if name in keywords}
    asked = collect(model.generation_config, keywords, generation_config)
    batch, device = _batch(inputs, encoder_outputs, encoder_keywords), model.device
    tokens = resolve_tokens(asked, special_tokens(model.config))
    prompt = target_prompt(prefix, tokens, batch, device)
    if prefix_mask is not None and prompt.shape[1] > prefix_mask.shape[1]:
        prefix_mask = torch.cat((torch.ones_like(prefix_mask[:, :1]), prefix_mask), 1)
    request = resolve_asked(
        asked,
        ModelFacts(
            vocab_size=model.decoder.spec.vocab_size,
            max_positions=model.decoder.spec.max_positions,
            tokens=special_tokens(model.config),
        ),
        CallFacts(
            prompt_length=prompt.shape[1],
            batch_size=batch,
            source_ids=inputs is not None,
            tokenizer=tokenizer is not None,
            assistant=assistant_model is not None,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn is not None,
            streamer=streamer is not None,
        ),
    )
    mask = source_mask(model, inputs, mask)
    wanted = {f"output_{kind}": getattr(request.outputs, kind) for kind in ("attentions", "hidden_states")}
    sources, encoded = encode(
        model, inputs, mask, encoder_outputs, encoder_keywords | wanted, truncation=request.truncation
    )
    callers = _Callers(logits_processor, stopping_criteria, prefix_allowed_tokens_fn, streamer, tokenizer)
    run = _Run(model, request, prompt, prefix_mask, sources, assistant_model, callers)
    decoded = run.decode()
    return _output(run, decoded, encoded) if request.outputs.as_dict else decoded.sequences


@dataclass(frozen=True, slots=True)
class _Callers:
    """What the caller gives to be called."""

    processors: Any | None
    criteria: Any | None
    prefix_fn: Callable[[int, Tensor], list[int]] | None
    streamer: Streamer | None
    tokenizer: Any | None


class _Run:
    """One call on its way."""

    def __init__(
        self,
        model: "EncoderDecoderModel",
        request: Request,
        prompt: Int[Tensor, "B P"],
        prompt_mask: Tensor | None,
        sources: Sources,
        assistant: "EncoderDecoderModel | None",
        callers: _Callers,
    ) -> None:
        self.model = model
        self.callers = callers
        self.trace = _trace(request)
        self.request = request
        self.prompt = prompt
        self.prompt_mask = prompt_mask
        self.sources = sources
        self.assistant = assistant
        self.readers: list[Reader] = []
        self.limits = Limits(
            prompt=prompt.shape[1],
            max_length=request.lengths.longest,
            eos=request.tokens.eos,
            pad=request.tokens.pad if request.tokens.pad is not None else 0,
        )

    def decode(self) -> Decoded:
        """Run the loop of the request's mode."""
        request, prompt, limits = self.request, self.prompt, self.limits
        if isinstance(request.mode, Assisted | CopySpeculation):
            return self._speculate(request.mode)
        control = self.control()
        returned = request.num_return_sequences
        match request.mode:
            case Greedy():
                return sample(self.reader(), prompt, limits, control, randomly=False, mask=self.prompt_mask)
            case Sampling():
                return sample(
                    self.reader(), prompt, limits, control, randomly=True, copies=returned, mask=self.prompt_mask
                )
            case BeamSearch() | BeamSampling():
                rules = self.rules()
                return beam_search(self.reader(), prompt, rules, control, returned=returned, mask=self.prompt_mask)
            case DiverseBeams(num_beam_groups=groups, diversity_penalty=penalty):
                rules = self.rules()
                return diverse_beam_search(
                    self.reader(), prompt, rules, control, groups=groups, penalty=penalty, returned=returned
                )
            case ConstrainedBeams(constraints=constraints):
                return constrained_beam_search(
                    self.reader(), prompt, self.rules(), control, constraints, returned=returned
                )
            case Contrastive(penalty_alpha=alpha, top_k=k):
                return contrastive_search(self.reader(), prompt, limits, control, alpha=alpha, k=k)

    def reader(self, sources: Sources | None = None) -> Reader:
        """The model's decoder, reading these sources."""
        outputs = self.request.outputs
        reader = Reader(
            self.model.decoder,
            sources or self.sources,
            room=self.limits.max_length,
            wants_attentions=outputs.attentions,
            wants_hidden_states=outputs.hidden_states,
        )
        self.readers.append(reader)
        return reader

    def control(self) -> Control:
        """What the loop over all sources calls at each step."""
        request, callers, device = self.request, self.callers, self.prompt.device
        plan = processor_plan(request)
        processors = build_processors(
            tuple(entry for entry in plan if not isinstance(entry, HammingDiversity)),  # the loop knows the groups
            source_ids=self.sources.ids,
            source_mask=self.sources.mask,
            prompt_mask=self.prompt_mask,
            num_sources=len(self.prompt),
            rows_per_source=request.rows_per_source,
            prefix_allowed_tokens_fn=callers.prefix_fn,
            custom=callers.processors,
            device=device,
        )
        stops = build_stopping(request, tokenizer=callers.tokenizer, extra=callers.criteria)
        if callers.streamer is not None:
            if len(self.prompt) > 1 or request.num_return_sequences > 1:
                raise GenerationError(f"A streamer follows one result, but {len(self.prompt)} sources are given.")
            callers.streamer.put(self.prompt.cpu())
        return Control(
            process=processors if len(processors) else None,
            stops=stops if len(stops) else None,
            streamer=callers.streamer,
            trace=self.trace,
            patience=1 if device.type == "cpu" else GPU_PATIENCE,
        )

    def rules(self) -> BeamRules:
        """The request's beam rules."""
        mode = self.request.mode
        assert isinstance(mode, BeamSearch | BeamSampling | DiverseBeams | ConstrainedBeams)
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

    def _speculate(self, mode: Assisted | CopySpeculation) -> Decoded:
        """Sources one after another: each accepts drafts at its own pace."""
        rows: list[Tensor] = []
        control = self.control()
        for index in range(len(self.sources)):
            source, prompt = self.sources.pick(index), self.prompt[index : index + 1]
            drafter = self._drafter(mode, source, prompt)
            randomly = isinstance(mode.base, Sampling)
            decoded = speculate(
                self.reader(source), prompt, self.limits, control.for_source(index), drafter, randomly=randomly
            )
            rows.append(decoded.sequences[0])
        longest = max(len(row) for row in rows)
        sequences = self.prompt.new_full((len(rows), longest), self.limits.pad)
        for index, row in enumerate(rows):
            sequences[index, : len(row)] = row
        return Decoded(sequences=sequences)

    def _drafter(self, mode: Assisted | CopySpeculation, source: Sources, prompt: Tensor) -> CopyDrafter | ModelDrafter:
        if isinstance(mode, CopySpeculation):
            ids = copy_source(self.model, source)
            return CopyDrafter(ids, longest=mode.max_matching_ngram_size, most=mode.num_tokens or 16)
        assert self.assistant is not None
        return ModelDrafter(
            _assistant_reader(self.model, self.assistant, source, self.limits.max_length),
            prompt,
            size=mode.num_assistant_tokens,
            randomly=isinstance(mode.base, Sampling),
            constant=mode.schedule == "constant",
        )


def _assistant_reader(
    model: "EncoderDecoderModel", assistant: "EncoderDecoderModel", source: Sources, room: int
) -> Reader:
    if assistant.decoder.spec.vocab_size != model.decoder.spec.vocab_size:
        raise GenerationError(
            f"assistant_model writes {assistant.decoder.spec.vocab_size} words, the model "
            f"{model.decoder.spec.vocab_size}; both must share the target vocabulary."
        )
    if source.ids is None:
        raise GenerationError("assistant_model reads source ids; give input ids, not encoder_outputs or inputs_embeds.")
    own, _ = encode(assistant, source.ids, source.mask, None, {}, truncation=False)
    return Reader(assistant.decoder, own, room=room)


def _inputs(
    inputs: Tensor | None, keywords: dict[str, Any]
) -> tuple[Tensor | None, Tensor | None, Any, Tensor | None, Tensor | None]:
    """Take tensors out of the keywords; what stays are settings."""
    ids = keywords.pop("input_ids", None)
    if inputs is not None and ids is not None:
        raise GenerationError("generate() got both inputs and input_ids.", hint="give one of them.")
    keywords.pop("synced_gpus", None)
    return (
        ids if inputs is None else inputs,
        keywords.pop("attention_mask", None),
        keywords.pop("encoder_outputs", None),
        keywords.pop("decoder_input_ids", None),
        keywords.pop("decoder_attention_mask", None),
    )


def _batch(inputs: Tensor | None, encoder_outputs: Any, keywords: dict[str, Any]) -> int:
    if encoder_outputs is not None:
        first = encoder_outputs if isinstance(encoder_outputs, Tensor) else encoder_outputs[0]
        return first.shape[0]
    given = inputs if inputs is not None else keywords.get("inputs_embeds")
    return 1 if given is None or given.dim() < 2 else given.shape[0]


def _trace(request: Request) -> Trace:
    outputs = request.outputs
    beams = isinstance(request.mode, BeamSearch | BeamSampling)
    return Trace(
        scores=[] if outputs.scores else None,
        logits=[] if outputs.logits else None,
        origins=outputs.as_dict and beams,
        attentions=outputs.attentions,
        hidden_states=outputs.hidden_states,
    )


def _output(run: _Run, decoded: Decoded, encoded: EncoderOutput) -> GenerateOutput:
    trace, records = run.trace, [record for reader in run.readers for record in reader.records]
    outputs = run.request.outputs
    common: dict[str, Any] = {
        "sequences": decoded.sequences,
        "scores": None if trace.scores is None else tuple(trace.scores),
        "logits": None if trace.logits is None else tuple(trace.logits),
        "encoder_attentions": encoded.attentions if outputs.attentions else None,
        "encoder_hidden_states": encoded.hidden_states if outputs.hidden_states else None,
        "decoder_attentions": tuple(tuple(r.attentions or ()) for r in records) if outputs.attentions else None,
        "cross_attentions": tuple(tuple(r.cross_attentions or ()) for r in records) if outputs.attentions else None,
        "decoder_hidden_states": tuple(tuple(r.hidden_states or ()) for r in records)
        if outputs.hidden_states
        else None,
        "past_key_values": run.readers[-1].cache,
    }
    if decoded.scores is None:
        return GenerateEncoderDecoderOutput(**common)
    return GenerateBeamEncoderDecoderOutput(
        **common, sequences_scores=decoded.scores if outputs.scores else None, beam_indices=decoded.origins
    )


def compute_transition_scores(
    sequences: Int[Tensor, "R t"],
    scores: tuple[Float[Tensor, "R V"], ...],
    beam_indices: Int[Tensor, "R o"] | None = None,
    normalize_logits: bool = False,
) -> Float[Tensor, "R o"]:
    """The score of every generated token, as transformers computes it; 0 behind the end of a beam's hypothesis."""
    steps = len(scores) if beam_indices is None else int((beam_indices >= 0).sum(1).max())
    stacked = torch.stack(scores[:steps], 1)
    if normalize_logits:
        stacked = stacked.log_softmax(-1)
    tokens = (
        sequences[:, sequences.shape[1] - steps :]
        if beam_indices is None
        else sequences[:, -beam_indices.shape[1] :][:, :steps]
    )
    rows = torch.arange(len(sequences), device=sequences.device)[:, None].expand(-1, steps)
    rows = rows if beam_indices is None else beam_indices[:, :steps]
    where = torch.arange(steps, device=sequences.device).expand_as(rows)
    found = stacked[rows.clamp(min=0), where, tokens]
    return found.masked_fill(rows < 0, 0.0)
