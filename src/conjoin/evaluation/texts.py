"""Generate targets for any number of texts with one model, in batches of similar length."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from conjoin.errors import ConfigError
from conjoin.join import start_of_language

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

NEW_TOKENS = 128
"""Maximum length of a result if neither the caller nor the model sets one; transformers' 20 truncates most texts."""
WINDOW = 64
"""Number of batches to read ahead and sort by length: enough to avoid most padding, few enough to start soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """Settings of generating from texts.

    Args:
        batch_size: Sources per batch.
        max_source_length: Longer sources are truncated; the encoder's limit by default.
        generation: Settings of `generate`, by name.
        seed: Random seed of sampling. The same texts in the same batches give the same results.
    """

    batch_size: int = 32
    max_source_length: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("batch_size", "max_source_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value}; expected 1 or more.")


@dataclass(frozen=True, slots=True)
class Generated:
    """The results for one source.

    Args:
        index: Position of the source in the input.
        texts: `num_return_sequences` results, or fewer if beam search finds no more.
        cut: True if the source was truncated.
    """

    index: int
    texts: list[str]
    cut: bool


@dataclass(frozen=True, slots=True)
class _Source:
    index: int
    ids: list[int]
    cut: bool


def with_length(model: "EncoderDecoderModel", generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of `generate` with a language and a maximum length, which the model's own may lack."""
    names = ("max_new_tokens", "max_length")
    language = start_of_language(model, model.tokenizer)
    if any(generation.get(name) or getattr(model.generation_config, name) for name in names):
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

    An empty text gives an empty result. If reading fails, the texts read before are generated first.
    """
    length = source_limit(model, settings.max_source_length)
    for window in _windows(texts, settings.batch_size * WINDOW):
        non_empty = [(index, text) for index, text in window if text.strip()]
        copies = int(settings.generation.get("num_return_sequences") or 1)
        if len(non_empty) < len(window):
            yield [Generated(index, [""] * copies, False) for index, text in window if not text.strip()]
        sources = tokenize_sources(model.tokenizer, non_empty, length)
        sources.sort(key=lambda source: -len(source.ids))  # longest first, so that running out of memory shows at once
        for start in range(0, len(sources), settings.batch_size):
            yield _generate(model, sources[start : start + settings.batch_size], settings)


def _windows(texts: Iterable[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
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


def source_limit(model: Any, requested: int | None) -> int | None:
    """Return the longest source in tokens: the requested one, within the position table and the tokenizer's limit."""
    tokenizer_limit = model.tokenizer.model_max_length
    limits = [requested, model.spec.encoder.max_positions, tokenizer_limit if tokenizer_limit < 10**9 else None]
    return min((limit for limit in limits if limit is not None), default=None)


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


def _generate(model: "EncoderDecoderModel", batch: list[_Source], settings: TextSettings) -> list[Generated]:
    import torch as untyped

    torch: Any = untyped
    options = with_length(model, settings.generation)
    with torch.random.fork_rng(enabled=bool(options.get("do_sample"))):
        if options.get("do_sample"):
            torch.manual_seed(settings.seed + batch[0].index)
        rows, counts = _rows(model, pad_sources(model, [source.ids for source in batch]), options)
    texts = iter(model.tokenizer.batch_decode(rows, skip_special_tokens=True))
    return [
        Generated(source.index, list(islice(texts, count)), source.cut)
        for source, count in zip(batch, counts, strict=True)
    ]


def _rows(model: "EncoderDecoderModel", sources: dict[str, Any], options: dict[str, Any]) -> tuple[Any, list[int]]:
    """Return ids, and the number of rows of each source: beam search may find fewer results than requested."""
    count = options.get("num_return_sequences") or getattr(model.generation_config, "num_return_sequences", None) or 1
    batch, generate = len(sources["input_ids"]), cast("Callable[..., Any]", model.generate)
    if count == 1:
        return generate(**sources, **options), [1] * batch
    output = generate(**sources, **{**options, "return_dict_in_generate": True})
    counts = output.get("results_per_source")
    return output.sequences, [len(output.sequences) // batch] * batch if counts is None else counts.tolist()
