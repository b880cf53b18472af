"""Texts in, texts out: any number of them through one model, in batches of like length."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from conjoin.errors import ConfigError
from conjoin.join import start_of_language

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

NEW_TOKENS = 128
"""Longest result where neither the caller nor the model says; transformers' 20 cut most texts short."""
WINDOW = 64
"""Batches read ahead and sorted by length: enough to have hardly any padding, few enough to start at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """How texts go through a model.

    Args:
        batch_size: Sources per batch.
        max_source_length: Longer sources are cut, their end token included; the encoder's own limit by default.
        generation: Settings of `generate`, by name.
        seed: Of sampling. The same texts in the same batches give the same results.
    """

    batch_size: int = 32
    max_source_length: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0

    def __post_init__(self) -> None:
        """Check numbers."""
        for name in ("batch_size", "max_source_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value}; expected 1 or more.")


@dataclass(frozen=True, slots=True)
class Generated:
    """What a model wrote for one source.

    Args:
        index: The source's place in the input.
        texts: One, or `num_return_sequences` of them; fewer where beams find no more.
        cut: The source was longer than the model reads, and its end was not read.
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
    """Settings of `generate` that say how long a result may be, whatever the model's own settings leave open."""
    names = ("max_new_tokens", "max_length")
    spoken = start_of_language(model, model.tokenizer)
    if any(generation.get(name) or getattr(model.generation_config, name) for name in names):
        return {**spoken, **generation}
    return {**spoken, **generation, "max_new_tokens": min(NEW_TOKENS, model.decoder.spec.max_positions or NEW_TOKENS)}


@contextmanager
def evaluating(model: "EncoderDecoderModel") -> Generator[None]:
    """Without dropout for a while; a model in training goes on with it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def generate_texts(
    model: "EncoderDecoderModel", texts: Sequence[str], settings: TextSettings | None = None
) -> list[str]:
    """Write a target for every text, in their order.

    Args:
        settings: Of batches and generation; the first of several results is taken.

    Raises:
        GenerationError: the settings cannot be honoured.
        TokenizerError: the model has no tokenizer.
    """
    found: list[str] = [""] * len(texts)
    with evaluating(model):
        for batch in generate_stream(model, enumerate(texts), settings or TextSettings()):
            for made in batch:
                found[made.index] = made.texts[0]
    return found


def generate_stream(
    model: "EncoderDecoderModel", texts: Iterable[tuple[int, str]], settings: TextSettings
) -> Iterator[list[Generated]]:
    """Write targets for (index, text) pairs, read as needed; results come batch by batch, not in order.

    An empty text gives an empty result. If reading fails, what was read before is generated first.
    """
    length = source_limit(model, settings.max_source_length)
    for window in _windows(texts, settings.batch_size * WINDOW):
        written = [(index, text) for index, text in window if text.strip()]
        copies = int(settings.generation.get("num_return_sequences") or 1)
        if len(written) < len(window):
            yield [Generated(index, [""] * copies, False) for index, text in window if not text.strip()]
        sources = tokenize_sources(model.tokenizer, written, length)
        sources.sort(key=lambda source: -len(source.ids))  # the longest first: what does not fit fails at once
        for start in range(0, len(sources), settings.batch_size):
            yield _generate(model, sources[start : start + settings.batch_size], settings)


def _windows(texts: Iterable[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    """Lists of texts; an error of the reader is raised only after the texts before it were handed out."""
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


def source_limit(model: Any, asked: int | None) -> int | None:
    """The longest source in tokens: what is asked for, within the position table and the tokenizer's own limit."""
    tokenizer_limit = model.tokenizer.model_max_length
    known = [asked, model.spec.encoder.max_positions, tokenizer_limit if tokenizer_limit < 10**9 else None]
    return min((limit for limit in known if limit is not None), default=None)


def tokenize_sources(tokenizer: Any, texts: Sequence[tuple[int, str]], limit: int | None) -> list[_Source]:
    """Ids of every text, cut to the limit."""
    if not texts:
        return []
    plain = tokenizer([text for _, text in texts], truncation=False, verbose=False)["input_ids"]
    long = [place for place, ids in enumerate(plain) if limit is not None and len(ids) > limit]
    if long:
        cut = tokenizer([texts[place][1] for place in long], truncation=True, max_length=limit)["input_ids"]
        for place, ids in zip(long, cut, strict=True):
            plain[place] = ids
    cut_ones = set(long)
    return [
        _Source(index, ids, place in cut_ones) for place, ((index, _), ids) in enumerate(zip(texts, plain, strict=True))
    ]


def pad_sources(model: "EncoderDecoderModel", rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """input_ids and attention_mask on the model's device, filled up on the right."""
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
    import torch

    wanted = with_length(model, settings.generation)
    with torch.random.fork_rng(enabled=bool(wanted.get("do_sample"))):
        if wanted.get("do_sample"):
            torch.manual_seed(settings.seed + batch[0].index)
        rows, counts = _rows(model, pad_sources(model, [source.ids for source in batch]), wanted)
    texts = iter(model.tokenizer.batch_decode(cast(Any, rows), skip_special_tokens=True))
    return [
        Generated(source.index, list(islice(texts, count)), source.cut)
        for source, count in zip(batch, counts, strict=True)
    ]


def _rows(model: "EncoderDecoderModel", sources: dict[str, Any], wanted: dict[str, Any]) -> tuple[Any, list[int]]:
    """Ids, and how many rows of them each source has: beams may find fewer results than were asked for."""
    asked = wanted.get("num_return_sequences") or getattr(model.generation_config, "num_return_sequences", None) or 1
    batch = len(sources["input_ids"])
    if asked == 1:
        return model.generate(**sources, **wanted), [1] * batch
    found: Any = model.generate(**sources, **{**wanted, "return_dict_in_generate": True})
    counts = found.get("results_per_source")
    return found.sequences, [len(found.sequences) // batch] * batch if counts is None else counts.tolist()
