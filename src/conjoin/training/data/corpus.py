"""Raw text as training data: pairs are made of its segments when a step needs them, other ones in every epoch.

Nothing is tokenized in advance, so that a run on a corpus of any size starts at once; what a segment becomes is a
function of seed, epoch and its number.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.texts.documents import Documents, segments, words
from conjoin.texts.mapped import MappedTexts
from conjoin.texts.pairs import PART, Pairs
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.batching import Batch, renumbered
from conjoin.training.data.examples import Examples, place_of
from conjoin.training.data.lengths import Lengths
from conjoin.training.data.objectives import Objective, marks_of, sides_of, tasks_of
from conjoin.training.data.store import SUMMARY_FILE, Files, map_array
from conjoin.training.data.tokenizing import Room, TokenizePart
from conjoin.training.settings import arguments

SIDE_TOKENS = 512
"""Tokens of a side at most, where neither the model nor the user limits them: T5's length."""
SAMPLE = 2000
"""Paragraphs that are tokenized to know how many characters a token has."""
MARGIN = 1.15
"""How many times more tokens than the sample says a segment may have, before it is truncated."""
SPECIALS = 4
"""Tokens that are kept free for special ones."""


@dataclass(frozen=True, slots=True)
class RawText:
    """Raw text to train on: `Seq2SeqTrainer(train_dataset=RawText(...))`, as `conjoin adapt` does.

    Example:
        RawText([Path("corpus.txt"), Path("more.jsonl.gz")], objective="ul2")

    Args:
        data: Paths of files (plain text, .jsonl, .csv, .tsv, .parquet, each also .gz but the last), texts in memory, or
            rows with a column of texts, such as a `datasets.Dataset`. A string is a path, a list of strings are texts.
        objective: "prefixlm": the first half of a text is the source, the second the target. "denoise": spans are taken
            out of the source. "ul2": a mixture of both.
        column: The column that holds the text.
        mode_tokens: Put UL2's mode tokens ([NLU], [S2S], [NLG]) before the sources.
        mlm_probability, mean_noise_span_length: Of "denoise": the share of tokens that are taken out, and the mean
            number of tokens of a span.
    """

    data: Any
    objective: arguments.Objective = "prefixlm"
    column: str = "text"
    mode_tokens: bool = False
    mlm_probability: float = 0.15
    mean_noise_span_length: float = 3.0

    @property
    def documents(self) -> Documents:
        """The texts."""
        return Documents(self.data, self.column)


@dataclass(frozen=True, slots=True)
class Ratios:
    """What a sample of the text shows.

    Args:
        source, target: Characters of a token.
        words: Words of a token of the source.
        width: Bytes of a character.
    """

    source: float
    target: float
    words: float
    width: float


def measure(texts: Iterable[str], tokenizer: Tokenizer | TokenizerPair) -> Ratios:
    """Return the ratios of texts."""
    sample = list(islice(texts, SAMPLE))
    characters = sum(map(len, sample))
    counts = [
        sum(map(len, side(sample, add_special_tokens=False, verbose=False)["input_ids"])) if sample else 0
        for side in sides_of(tokenizer)
    ]
    characters = max(1, characters)
    source, target = (characters / max(1, count) for count in counts)
    num_words = sum(len(words(text)) for text in sample)
    width = sum(len(text.encode()) for text in sample) / characters
    return Ratios(source, target, num_words / max(1, counts[0]), width)


def characters_of(objective: Objective, room: Room, ratios: Ratios) -> int:
    """Return the characters of a segment whose source and target fill their room."""
    sizes: list[float] = []
    for task in range(len(objective.tasks)):
        for limit, share, ratio in zip(
            _limits(room), objective.shares(task), (ratios.source, ratios.target), strict=True
        ):
            sizes.append(limit * ratio / share)
    return max(16, int(min(sizes) / MARGIN))


def _limits(room: Room) -> tuple[int, int]:
    source, target = (SIDE_TOKENS if limit is None else min(limit, SIDE_TOKENS) for limit in (room.source, room.target))
    return max(2, source - SPECIALS), max(2, target - SPECIALS)


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of raw text, in memory or mapped.

    Args:
        starts: Byte at which each starts, and then the end of the last.
        ratios: Those that they were cut by.
        digest: A hash of all texts.
    """

    texts: Sequence[str]
    starts: NDArray[np.int64]
    ratios: Ratios
    digest: str


def cut_segments(documents: Documents, size: int) -> Iterator[str]:
    """Yield the segments of at most `size` characters; those of one word cannot be divided and are left out."""
    return (text for text in segments(documents, size) if len(words(text[:200])) > 1)


def segments_in_memory(texts: Iterable[str], ratios: Ratios) -> Segments:
    """Hold segments in memory."""
    listed, digest, ends = list(texts), hashlib.sha256(), [0]
    for text in listed:
        encoded = text.encode()
        digest.update(encoded + b"\0")
        ends.append(ends[-1] + len(encoded))
    return Segments(listed, np.array(ends), ratios, digest.hexdigest()[:16])


def write_segments(texts: Iterable[str], ratios: Ratios, folder: Path, advance: Any) -> None:
    """Write segments into the files of a folder; the last file written is the summary.

    Raises:
        OSError: the disk is full, for example.
    """
    files, digest, count = Files(folder), hashlib.sha256(), 0
    try:
        end = np.zeros(1, np.int64)
        files.append("starts", end)
        reader = iter(texts)
        while part := list(islice(reader, PART)):
            encoded = [text.encode() for text in part]
            for each in encoded:
                digest.update(each + b"\0")
            starts = end[-1] + np.cumsum([len(each) for each in encoded], dtype=np.int64)
            files.append("starts", starts)
            files.append("segments", np.frombuffer(b"".join(encoded), np.uint8))
            end, count = starts, count + len(part)
            advance(len(part))
        files.finish(())
    finally:
        files.close()
    summary = {"count": count, "bytes": int(end[-1]), "digest": digest.hexdigest()[:16], "ratios": asdict(ratios)}
    (folder / SUMMARY_FILE).write_text(json.dumps(summary))


def read_segments(folder: Path) -> Segments | None:
    """Map the segments of a folder; None if there are none, or they are damaged."""
    try:
        summary: Any = json.loads((folder / SUMMARY_FILE).read_text())
        starts = map_array(folder, "starts", np.int64)
        utf8 = map_array(folder, "segments", np.uint8) if summary["count"] else np.empty(0, np.uint8)
        if len(starts) != summary["count"] + 1 or len(utf8) != summary["bytes"]:
            return None
        return Segments(MappedTexts(utf8, starts), starts, Ratios(**summary["ratios"]), summary["digest"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


class Corpus:
    """Pairs made of segments of raw text, step by step; the trainer uses it as it uses examples.

    Args:
        seed: With the epoch and the number of a segment, decides where it is cut.
        name: Its name in messages.

    Raises:
        DataError: there is no segment.
    """

    def __init__(
        self,
        own: Segments,
        objective: Objective,
        tokenizer: Tokenizer | TokenizerPair,
        room: Room,
        *,
        seed: int,
        name: str,
    ) -> None:
        if not len(own.texts):
            raise DataError(f"{name} has no text that can be divided; expected at least one line of two words.")
        self.name, self._seed = name, seed
        self._segments, self._objective, self._room = own, objective, room
        self._tokenize = TokenizePart(tokenizer, room)

    def __len__(self) -> int:
        return len(self._segments.texts)

    @cached_property
    def _tasks(self) -> NDArray[np.uint8]:
        """The number of every segment's task: it stays the same, so that lengths can be planned."""
        return np.random.default_rng(self._seed).integers(len(self._objective.tasks), size=len(self), dtype=np.uint8)

    @cached_property
    def lengths(self) -> Lengths:
        """Number of source ids and of labels that every pair has at most, as far as can be told: [n, 2]."""
        ratios, lengths = self._segments.ratios, np.empty((len(self), 2), np.int32)
        shares = np.array([self._objective.shares(task) for task in range(len(self._objective.tasks))])
        per_byte = shares * MARGIN / (ratios.source, ratios.target) / max(1.0, ratios.width)
        limits = [limit or 2**31 - 1 for limit in (self._room.source, self._room.target)]
        for at in range(0, len(self), PART):
            sizes = np.diff(self._segments.starts[at : at + PART + 1])
            planned = SPECIALS + np.ceil(sizes[:, None] * per_byte[self._tasks[at : at + PART]])
            lengths[at : at + PART] = np.minimum(planned, limits)
        return lengths

    def fingerprint(self) -> str:
        """Return a hash of everything that the pairs depend on."""
        text = f"{self._segments.digest} {self._objective!r} {self._room!r} {self._seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def where(self, rows: Iterable[int]) -> str:
        """Describe segments for a message."""
        return place_of(self.name, "segment", (row + 1 for row in rows))

    def pairs(self, epoch: int, rows: Sequence[int]) -> Pairs:
        """Return the pairs that segments become in an epoch."""
        sides = [
            self._objective.sides(
                self._segments.texts[row], int(self._tasks[row]), np.random.default_rng((self._seed, epoch, row))
            )
            for row in rows
        ]
        sources, targets = [side.source for side in sides], [side.target for side in sides]
        return Pairs(self.name, sources, targets, [row + 1 for row in rows])

    def beginning(self, most: int) -> Examples:
        """Return the examples of at most this many first segments in the first epoch."""
        return self.drawn(0, [[[row] for row in range(min(most, len(self)))]])[0]

    def drawn(self, epoch: int, batches: Sequence[Batch]) -> tuple[Examples, list[Batch]]:
        """Return the examples of batches of an epoch, and the batches with their numbers among these."""
        rows = [index for batch in batches for row in batch for index in row]
        return self._tokenize(self.pairs(epoch, rows)), renumbered(batches)


def objective_of(raw: RawText, tokenizer: Tokenizer | TokenizerPair, ratios: Ratios) -> Objective:
    """Return the objective of raw text, with the marks that the tokenizers have."""
    return Objective(
        tasks=tasks_of(raw.objective, raw.mlm_probability, raw.mean_noise_span_length),
        marks=marks_of(tokenizer),
        words_per_token=ratios.words,
        modes=raw.mode_tokens,
    )
