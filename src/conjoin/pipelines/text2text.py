"""The pipelines: from texts to texts, with any encoder-decoder model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from conjoin.errors import ConfigError, ShapeError, shown, warn
from conjoin.evaluation.texts import evaluating, source_limit, tokenize_sources, windows
from conjoin.generation import GenerationConfig
from conjoin.pipelines import inputs as kinds
from conjoin.pipelines.languages import language_settings, with_languages
from conjoin.pipelines.models import (
    Framework,
    framework_of,
    framework_of_name,
    generate_rows,
    to_tensor,
    torch_device,
    without_adapters,
)
from conjoin.pipelines.options import (
    BATCH_SIZE,
    CALLBACKS,
    CallArguments,
    PipelineOptions,
    complete_generation,
    longest_result,
    merge_generation,
    without_idle,
)
from conjoin.pipelines.tasks import (
    RESULT_NAMES,
    Kind,
    Task,
    choose_translation,
    length_warning,
    parse_task,
    task_settings,
)

Record = dict[str, Any]
"""One result: {"summary_text": "..."}, say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a pipeline, its settings merged and checked.

    Args:
        tokenizer: With the languages of this call.
        generation: Settings of `generate`.
        is_length_chosen: True if the caller set max_length.
        results_per_text: Number of results that are asked for.
        warned: What this call has warned of, so that a long stream does not repeat itself.
    """

    options: PipelineOptions
    tokenizer: Any
    generation: Mapping[str, Any]
    is_length_chosen: bool
    results_per_text: int
    warned: set[str] = field(default_factory=set[str])

    def batch_size(self, kind: kinds.Kind) -> int:
        """Return the number of sources per batch; texts of a stream, and those that callbacks see, are alone."""
        is_alone = kind == "stream" or any(name in self.generation for name in CALLBACKS)
        return self.options.batch_size or (1 if is_alone else BATCH_SIZE)

    def warn_once(self, subject: str, text: str) -> None:
        """Issue a warning unless this call has issued one of the same subject."""
        if subject not in self.warned:
            self.warned.add(subject)
            warn(text)


class Text2TextGenerationPipeline:
    """Generate texts from texts, with transformers 4's arguments and results.

    Args:
        model: A model of conjoin, of any framework; it stays where it is unless `device` is given.
        tokenizer: The model's own by default.
        framework: "pt", "tf" or "flax", to insist on one.
        task: Name of the task, of which the model's config may hold a prefix and settings.
        device: Device to move a PyTorch model to; -1 is the CPU, a number a GPU.
        settings: What calls take, as defaults of all calls.

    Attributes:
        prefix: Text put before every source, such as T5's "summarize: ".
        generation_config: Settings of `generate` that calls start from, of the task and of the constructor. They win
            over the model's own; what both leave open is 4 beams and at most 256 new tokens.

    Example:
        pipe = conjoin.pipeline("summarization", model="facebook/bart-large-cnn")
        pipe("a long text", max_length=60)  # [{"summary_text": "..."}]
    """

    kind: ClassVar[Kind] = "text2text-generation"

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        framework: str | None = None,
        task: str = "",
        device: Any = None,
        **settings: Any,
    ) -> None:
        """See the class.

        Raises:
            ConfigError: arguments are unknown or impossible.
            NoTokenizerError: the model has no tokenizer, and none is given.
        """
        self.model = model
        self.framework: Framework = framework_of(model)
        if framework_of_name(framework) not in (None, self.framework):
            raise ConfigError(f"framework = {framework!r}, but the model is of {self.framework!r}.")
        self._base = without_adapters(model)
        self.tokenizer = self._base.tokenizer if tokenizer is None else tokenizer
        if device is not None:
            self._move(device)
        self._arguments = CallArguments.of(settings)
        self._arguments.over(CallArguments({}, {}))  # checks the values now, not at the first call
        self._task = self._named(task)
        self.prefix, generation = self._settings_of_task()
        chosen = self._arguments.generation
        self._callbacks = {name: value for name, value in chosen.items() if name not in GenerationConfig.FIELDS}
        chosen = {name: value for name, value in chosen.items() if name not in self._callbacks}
        self.generation_config = GenerationConfig(**merge_generation(generation, chosen))

    @property
    def task(self) -> str:
        """The name of the task, with the languages that it was found to have."""
        return self._task.name

    @property
    def device(self) -> Any:
        """The device of a PyTorch model; None of another, whose framework places arrays by itself."""
        return self.model.device if self.framework == "pt" else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task={self.task!r}, model={type(self._base).__name__}, prefix={self.prefix!r})"

    def __call__(self, inputs: Any, /, **settings: Any) -> Any:
        """Generate for one text, a list of texts, a generator or a data set.

        Args:
            inputs: A str; a list or tuple; a generator, of which `batch_size` texts are read before their results
                come; or any other iterable or torch Dataset of texts, which is read some batches ahead.
            settings: Settings of `generate`, min_length and max_length among them, its callbacks, and
                batch_size: Sources per batch: 32 by default, 1 of a generator or with callbacks.
                truncation: True truncates sources to what the model reads; by default longer ones are an error.
                clean_up_tokenization_spaces: Remove spaces before punctuation; False by default.
                return_tensors: Return token ids; instead of texts, unless return_text=True asks for both.
                src_lang, tgt_lang: Languages of a model of many languages.
                stop_sequence: Results end behind it.

        Returns:
            A list of dicts for a str, one for each of `num_return_sequences` results: [{"generated_text": ...}]. For a
            list, one such list for every text; or a flat list of dicts if each text has one result. For a generator or
            data set, an iterable of one list for every text.

        Raises:
            ConfigError: arguments are unknown or impossible, or the inputs are no texts.
            ShapeError: a source is longer than the model reads.
            GenerationError: settings of `generate` cannot be honoured.
        """
        call = self._call(CallArguments.of(settings))
        kind = kinds.kind_of(inputs)
        match kind:
            case "one":
                return self._generate(call, [inputs], kind)[0]
            case "list":
                results = self._generate(call, list(kinds.checked_texts(inputs)), kind)
                return [records[0] for records in results] if call.results_per_text == 1 else results
            case _:
                return kinds.results(inputs, lambda texts: self._stream(call, texts, kind))

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Write the model and the tokenizer, for `pipeline(task, model=save_directory)`."""
        self.model.save_pretrained(save_directory)
        self.tokenizer.save_pretrained(save_directory)

    def _move(self, device: Any) -> None:
        if self.framework != "pt":
            raise ConfigError(f"device = {shown(device)}: {self._base.placing.rule}", hint=self._base.placing.hint)
        self.model.to(torch_device(device))

    def _named(self, name: str) -> Task:
        task = parse_task(name) if name else Task("", self.kind)
        if task.kind != self.kind:
            raise ConfigError(f"{type(self).__name__} does {self.kind}, not {name}.", hint="conjoin.pipeline(task)")
        return choose_translation(task, self._base.config)

    def _settings_of_task(self) -> tuple[str, Mapping[str, Any]]:
        settings = task_settings(self._task, self._base.config)
        return settings.prefix, settings.generation

    def _call(self, arguments: CallArguments) -> Call:
        options = arguments.over(self._arguments)
        defaults = self._base.generation_config
        merged = merge_generation(self.generation_config.set_values(), self._callbacks, arguments.generation)
        merged = complete_generation(merged, defaults, self._base.spec.decoder.max_positions)
        tokenizer, languages = self._languages(options)
        merged = {**languages, **without_idle(merged, arguments.generation, defaults)}
        if options.stop_sequence is not None:
            merged["stop_strings"] = [options.stop_sequence]
        if merged.get("stop_strings"):
            merged.setdefault("tokenizer", getattr(tokenizer, "target", tokenizer))
        return Call(
            options=options,
            tokenizer=tokenizer,
            generation=merged,
            is_length_chosen="max_length" in {*arguments.generation, *self._arguments.generation},
            results_per_text=merged.get("num_return_sequences") or defaults.num_return_sequences or 1,
        )

    def _languages(self, options: PipelineOptions) -> tuple[Any, dict[str, Any]]:
        """Return the tokenizer of a call, and settings that begin results; only translations have languages."""
        if options.src_lang or options.tgt_lang:
            raise ConfigError(
                f"src_lang and tgt_lang are for translations; this pipeline does {self.kind}.",
                hint='conjoin.pipeline("translation", model=...)',
            )
        return self.tokenizer, {}

    def _stream(self, call: Call, texts: Iterable[Any], kind: kinds.Kind) -> Iterator[list[Record]]:
        ahead = 1 if kind == "stream" else kinds.READ_AHEAD
        for window in windows(enumerate(kinds.checked_texts(texts)), call.batch_size(kind) * ahead):
            yield from self._generate(call, [text for _, text in window], kind)

    def _generate(self, call: Call, texts: Sequence[str], kind: kinds.Kind) -> list[list[Record]]:
        """Return the results of every text, in order; the model gets them by length."""
        limit = None
        if call.options.truncates:
            limit = source_limit(self._base, None, call.tokenizer, new_tokens=call.generation.get("max_new_tokens"))
        sources = tokenize_sources(call.tokenizer, [(i, self.prefix + text) for i, text in enumerate(texts)], limit)
        self._check_lengths(call, texts, sources)
        sources.sort(key=lambda source: -len(source.ids))  # longest first, so that running out of memory shows at once
        results: dict[int, list[Record]] = {}
        size = call.batch_size(kind)
        with evaluating(self.model) if self.framework == "pt" else nullcontext():
            for start in range(0, len(sources), size):
                batch = sources[start : start + size]
                made = self._batch(call, [source.ids for source in batch])
                results |= dict(zip((source.index for source in batch), made, strict=True))
        return [results[index] for index in range(len(texts))]

    def _check_lengths(self, call: Call, texts: Sequence[str], sources: Sequence[Any]) -> None:
        positions = self._base.spec.encoder.max_positions
        longest = longest_result(call.generation, self._base.generation_config)
        for source in sources:
            length = len(source.ids)
            if positions is not None and length > positions:
                raise ShapeError(
                    f"A source has {length} tokens, but the encoder reads {positions}: {shown(texts[source.index])}",
                    hint="truncation=True",
                )
            if odd := length_warning(self.kind, length, longest, is_chosen=call.is_length_chosen):
                call.warn_once("length", odd)
            known = call.tokenizer.model_max_length
            if length > known:
                call.warn_once("limit", f"A source has {length} tokens; the tokenizer's limit is {known}.")

    def _batch(self, call: Call, sources: Sequence[Sequence[int]]) -> Iterator[list[Record]]:
        pad = getattr(call.tokenizer, "source", call.tokenizer).pad_token_id or 0
        rows = generate_rows(self.model, self.framework, sources, pad, call.generation)
        ends = call.generation.get("eos_token_id", self._base.generation_config.eos_token_id)
        ends = np.atleast_1d(-1 if ends is None else ends)
        start = 0
        for count in rows.counts:
            yield self._records(call, trimmed(rows.ids[start : start + count], ends))
            start += count

    def _records(self, call: Call, ids: Int[np.ndarray, "n t"]) -> list[Record]:
        name, options = RESULT_NAMES[self.kind], call.options
        records: list[Record] = [{} for _ in ids]
        if options.returns_text:
            clean = bool(options.clean_up_tokenization_spaces)
            texts = call.tokenizer.batch_decode(
                ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=clean
            )
            for record, text in zip(records, texts, strict=True):
                record[f"{name}_text"] = text
        if options.return_tensors:
            for record, row in zip(records, ids, strict=True):
                record[f"{name}_token_ids"] = to_tensor(self.framework, row)
        return records


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Summarize texts: results are {"summary_text": ...}. See `Text2TextGenerationPipeline`."""

    kind = "summarization"


class TranslationPipeline(Text2TextGenerationPipeline):
    """Translate texts: results are {"translation_text": ...}. See `Text2TextGenerationPipeline`.

    A model of many languages gets `src_lang` and `tgt_lang`, codes such as en_XX, or a task such as
    translation_en_to_ro; its tokenizer is not changed.
    """

    kind = "translation"

    def _languages(self, options: PipelineOptions) -> tuple[Any, dict[str, Any]]:
        chosen = options.src_lang, options.tgt_lang
        named = self._task.languages if chosen == (None, None) else None
        source, target = named or chosen
        tokenizer = with_languages(self.tokenizer, source, target, by_name=named is not None)
        return tokenizer, language_settings(self._base, tokenizer, chosen=target is not None)


PIPELINES: dict[Kind, type[Text2TextGenerationPipeline]] = {
    kind.kind: kind for kind in (Text2TextGenerationPipeline, SummarizationPipeline, TranslationPipeline)
}


def trimmed(rows: Int[np.ndarray, "n t"], ends: Int[np.ndarray, " e"]) -> Int[np.ndarray, "n t2"]:
    """Return the results of one source without the columns that its batch added.

    Args:
        rows: Its results; the first column is the start id, which may be an end id too.
        ends: Ids that end a result.
    """
    is_end: np.ndarray = np.isin(rows[:, 1:], ends)
    lengths = [int(row.argmax()) + 2 if row.any() else rows.shape[1] for row in is_end]
    return rows[:, : max(lengths, default=1)]
