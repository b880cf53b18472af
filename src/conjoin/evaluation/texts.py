"""Generate targets for any number of texts with one model, in batches of similar length."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any

from conjoin.errors import ConfigError, GenerationError
from conjoin.evaluation.mbr import MBR, results_wanted
from conjoin.join import start_of_language

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

NEW_TOKENS = 128
"""Maximum length of a result if neither the caller nor the model sets one; transformers' 20 truncates most texts."""
WINDOW = 64
"""Number of batches to read ahead and sort by length: enough to avoid most padding, few enough to start soon."""


ERROR_LETTERS = 500
"""Characters of an error that a result file keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """Settings of generating from texts.

    Args:
        batch_size: Sources per batch; with `mbr`, candidates per batch, but at least those of one source.
        max_source_length: Longer sources are truncated; the encoder's limit by default.
        generation: Settings of `generate`, by name.
        seed: Random seed of sampling. Each source has its own, made of this and its index: its results do not depend
            on batches, nor on which process generates them.
        scores: Also return the scores by which beam search ranks results; with `mbr`, expected utilities in percent.
        mbr: Generate candidates for each source, and return those that are most like the others.

    Raises:
        ConfigError: a number is too small.
        GenerationError: the settings of `generate` contradict `mbr`.
    """

    batch_size: int = 32
    max_source_length: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0
    scores: bool = False
    mbr: MBR | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("batch_size", "max_source_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value}; expected 1 or more.")
        if self.mbr is not None:
            self.mbr.generation(self.generation)

    def of_candidates(self) -> "TextSettings":
        """Return the settings with which a model generates, before any choice among its results.

        Raises:
            MissingBackend: what computes the utility is not installed, which shows before hours of generating.
        """
        if self.mbr is None:
            return self
        self.mbr.choose(["a", "trial"])
        size = max(1, self.batch_size // self.mbr.num_candidates)
        generation = self.mbr.generation(self.generation)
        return replace(self, batch_size=size, generation=generation, scores=False, mbr=None)

    def chosen(self, made: "Generated") -> "Generated":
        """Return the results of a source, chosen among its candidates if `mbr` asks for it."""
        if self.mbr is None:
            return made
        wanted = results_wanted(self.generation)
        if not any(made.texts):  # as of an empty source
            return replace(made, texts=made.texts[:wanted])
        texts, utilities = self.mbr.choose(made.texts, wanted)
        return replace(made, texts=texts, scores=utilities if self.scores else None)

    def chosen_outcomes(self, outcomes: "Iterable[Outcome]") -> "list[Outcome]":
        """Return outcomes with their results chosen."""
        return [each if isinstance(each, Failed) else self.chosen(each) for each in outcomes]


@dataclass(frozen=True, slots=True)
class Generated:
    """The results for one source.

    Args:
        index: Position of the source in the input.
        texts: `num_return_sequences` results, or fewer if beam search finds no more.
        cut: True if the source was truncated.
        scores: Log-probability / length ** length_penalty of every result, if asked for; with `mbr`, its expected
            utility.
    """

    index: int
    texts: list[str]
    cut: bool
    scores: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A source for which nothing could be generated.

    Args:
        index: Position of the source in the input.
        error: What happened.
    """

    index: int
    error: str


Outcome = Generated | Failed


@dataclass(frozen=True, slots=True)
class _Source:
    index: int
    ids: list[int]
    cut: bool


def with_length(model: "EncoderDecoderModel", generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of `generate` with a language and a maximum length, which the model's own may lack."""
    names = ("max_new_tokens", "max_length")
    language = start_of_language(model, model.tokenizer)
    if any(generation.get(name) is not None or getattr(model.generation_config, name) for name in names):
        return {**language, **generation}
    return {**language, **generation, "max_new_tokens": min(NEW_TOKENS, model.decoder.spec.max_positions or NEW_TOKENS)}


@contextmanager
def evaluating(model: "EncoderDecoderModel") -> Generator[None]:
    """Set eval mode inside the context, and restore the mode after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def generate_texts(
    model: "EncoderDecoderModel", texts: Sequence[str], settings: TextSettings | None = None
) -> list[str]:
    """Generate a target for every text, in order.

    Args:
        settings: Settings of batches and generation. Of several results, the first is returned.

    Raises:
        GenerationError: the settings cannot be honoured.
        TokenizerError: the model has no tokenizer.
    """
    results: list[str] = [""] * len(texts)
    with evaluating(model):
        for batch in generate_stream(model, enumerate(texts), settings or TextSettings()):
            for generated in batch:
                results[generated.index] = generated.texts[0]
    return results


def generate_stream(
    model: "EncoderDecoderModel", texts: Iterable[tuple[int, str]], settings: TextSettings
) -> Iterator[list[Generated]]:
    """Generate targets for (index, text) pairs, read as needed; results come batch by batch, not in order.

    An empty text gives an empty result. If reading fails, the texts read before are generated first; if a batch fails,
    so are the batches that have begun, and no other begins.

    Raises:
        GenerationError: the settings cannot be honoured, or a source has no result.
    """
    asked = settings.of_candidates()
    failures = list[Exception]()
    for _, made in _generated(model, texts, asked, is_over=lambda: bool(failures)):
        if isinstance(made, Exception):
            failures.append(made)
        else:
            yield [settings.chosen(each) for each in made]
    if failures:
        raise failures[0]


def generate_outcomes(
    model: "EncoderDecoderModel", texts: Iterable[tuple[int, str]], settings: TextSettings
) -> Iterator[list[Outcome]]:
    """Generate as `generate_stream`; a source for which this raises an error becomes a `Failed`, and the others go on.

    A batch that fails as a whole, as by lack of memory, is generated source by source.
    """
    asked = settings.of_candidates()
    for batch, made in _generated(model, texts, asked):
        if not isinstance(made, Exception):
            yield settings.chosen_outcomes(made)
        else:
            yield settings.chosen_outcomes(_outcome(model, source, asked) for source in batch)


def _outcome(model: "EncoderDecoderModel", source: _Source, settings: TextSettings) -> Outcome:
    ((batch, decoded),) = model.generate_batches([([source], _arguments(model, [source], settings))])
    made = _made(model, batch, decoded, settings)
    return Failed(source.index, describe(made)) if isinstance(made, Exception) else made[0]


def describe(error: BaseException) -> str:
    """Return an error in one line, as a result file has it."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_LETTERS]


class Empty(list[Generated]):
    """Results of empty sources, which no model reads."""


def _generated(
    model: "EncoderDecoderModel",
    texts: Iterable[tuple[int, str]],
    settings: TextSettings,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[list[_Source], list[Generated] | Exception]]:
    """Yield batches with their results, or with what went wrong; results of empty texts have no batch.

    Args:
        is_over: Whether no further batch shall begin.
    """
    empty: list[Empty] = []

    def prepared() -> Iterator[tuple[list[_Source], dict[str, Any]]]:
        batches = _batches(model, texts, settings)
        while not is_over() and (batch := next(batches, None)) is not None:
            if isinstance(batch, Empty):
                empty.append(batch)
            else:
                yield batch, _arguments(model, batch, settings)

    for batch, decoded in model.generate_batches(prepared()):
        yield from (([], each) for each in empty)
        empty.clear()
        yield batch, _made(model, batch, decoded, settings)
    yield from (([], each) for each in empty)


def _batches(
    model: "EncoderDecoderModel", texts: Iterable[tuple[int, str]], settings: TextSettings
) -> Iterator[Empty | list[_Source]]:
    """Yield batches of similar length, and the results of empty texts."""
    length = limit_of(model, settings)
    if settings.scores and _number(model, settings, "num_beams") < 2:
        raise GenerationError("Only beam search has scores of results.", hint="ask for 2 beams or more.")
    for window in windows(texts, settings.batch_size * WINDOW):
        non_empty = [(index, text) for index, text in window if text.strip()]
        if len(non_empty) < len(window):
            copies = _number(model, settings, "num_return_sequences")
            yield Empty(Generated(index, [""] * copies, False) for index, text in window if not text.strip())
        sources = tokenize_sources(model.tokenizer, non_empty, length)
        sources.sort(key=lambda source: -len(source.ids))  # longest first, so that running out of memory shows at once
        for start in range(0, len(sources), settings.batch_size):
            yield sources[start : start + settings.batch_size]


def _number(model: "EncoderDecoderModel", settings: TextSettings, name: str) -> int:
    """Return a setting of `generate` that is a number, 1 by default: as the settings say, or else the model's own."""
    return int(settings.generation.get(name) or getattr(model.generation_config, name, None) or 1)


def windows(texts: Iterable[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    """Yield lists of texts; an error of the reader is raised only after the texts before it were yielded."""
    reader, failure = iter(texts), None
    while failure is None:
        window: list[tuple[int, str]] = []
        try:
            for pair in islice(reader, size):
                window.append(pair)
        except Exception as error:
            failure = error
        if window:
            yield window
        elif failure is None:
            return
    raise failure


def source_limit(
    model: Any, requested: int | None, tokenizer: Any = None, *, new_tokens: int | None = None
) -> int | None:
    """Return the longest source in tokens: the requested one, within the position table and the tokenizer's limit.

    Args:
        tokenizer: The model's by default.
        new_tokens: Tokens of a result at most, for which a decoder that continues its source needs positions; what the
            model's generation_config says by default.
    """
    tokenizer_limit = (model.tokenizer if tokenizer is None else tokenizer).model_max_length
    is_number = isinstance(new_tokens, int) and new_tokens > 0  # what is none, `generate` refuses
    new = new_tokens if is_number else getattr(model.generation_config, "max_new_tokens", None) or NEW_TOKENS
    limits = [requested, model.spec.longest_source(new), tokenizer_limit if tokenizer_limit < 10**9 else None]
    return min((limit for limit in limits if limit is not None), default=None)


def limit_of(model: Any, settings: TextSettings) -> int | None:
    """Return the longest source in tokens with these settings."""
    return source_limit(model, settings.max_source_length, new_tokens=settings.generation.get("max_new_tokens"))


def tokenize_sources(tokenizer: Any, texts: Sequence[tuple[int, str]], limit: int | None) -> list[_Source]:
    """Return the ids of every text, truncated to the limit."""
    if not texts:
        return []
    rows = tokenizer([text for _, text in texts], truncation=False, verbose=False)["input_ids"]
    too_long = [index for index, ids in enumerate(rows) if limit is not None and len(ids) > limit]
    if too_long:
        shortened = tokenizer([texts[index][1] for index in too_long], truncation=True, max_length=limit)["input_ids"]
        for index, ids in zip(too_long, shortened, strict=True):
            rows[index] = ids
    truncated = set(too_long)
    return [
        _Source(index, ids, number in truncated)
        for number, ((index, _), ids) in enumerate(zip(texts, rows, strict=True))
    ]


def pad_sources(model: "EncoderDecoderModel", rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return input_ids and attention_mask on the model's device, padded on the right."""
    import torch

    tokenizer: Any = getattr(model.tokenizer, "source", model.tokenizer)
    pad = next((i for i in (tokenizer.pad_token_id, model.encoder.config.pad_token_id) if i is not None), 0)
    longest = max(map(len, rows))
    ids = [[*row, *[pad] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {
        "input_ids": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


def source_seed(seed: int, index: int) -> int:
    """Return the random seed of a source: one of 32 bits, different for every source of a run.

    `torch.manual_seed` with it, and `generate` for this source alone, draw the same tokens.
    """
    start = int.from_bytes(blake2b(str(seed).encode(), digest_size=4).digest())  # so that seeds 0 and 1 share no stream
    return (start + index) % 2**32


def _arguments(model: "EncoderDecoderModel", batch: Sequence[_Source], settings: TextSettings) -> dict[str, Any]:
    """Return the arguments of `generate_results` for a batch."""
    import torch as untyped

    torch: Any = untyped
    generators = [
        torch.Generator(model.device).manual_seed(source_seed(settings.seed, source.index)) for source in batch
    ]
    sources = pad_sources(model, [source.ids for source in batch])
    target = getattr(model.tokenizer, "target", model.tokenizer)  # which stop_strings are looked for with
    return {**sources, **with_length(model, settings.generation), "generator": generators, "tokenizer": target}


def _made(
    model: "EncoderDecoderModel", batch: Sequence[_Source], decoded: Any, settings: TextSettings
) -> list[Generated] | Exception:
    """Return the texts of a batch's results; an error stays one."""
    if isinstance(decoded, Exception):
        return decoded
    try:
        rows = iter(model.tokenizer.batch_decode(decoded.sequences, skip_special_tokens=True))
    except Exception as error:
        return error
    ranked: Any = decoded.scores if settings.scores else None
    scores: Iterator[float] = iter([] if ranked is None else ranked.tolist())
    counts = decoded.counts or [len(decoded.sequences) // len(batch)] * len(batch)
    return [
        Generated(source.index, list(islice(rows, count)), source.cut, list(islice(scores, count)) or None)
        for source, count in zip(batch, counts, strict=True)
    ]
