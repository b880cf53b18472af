"""The rows of the CPU benchmark: one for each figure, with its target ("bar")."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fp32", "bf16", "int8"]

NEW_TOKENS = 32
BERT, BART, MINILM = "bert-base x bert-base", "bart-base", "MiniLM-L6 x MiniLM-L6"
BART_256, BART_64 = "bart, 4 layers of 256", "bart, 2 layers of 64"
SMALL = {BERT: "tiny", BART: "bart-tiny", MINILM: "tiny", BART_256: "bart-tiny", BART_64: "bart-tiny"}
"""Replacements of a few MB, to test the harness; their figures mean nothing."""

TRANSFORMERS = ("transformers fp32", "transformers bf16")
"""The fastest of these is transformers' best; it has no int8 for a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Generating exactly 32 tokens, against peers on the same weights.

    Args:
        against: The figure is the ratio to the fastest of these.
        beside: Measured in the same rounds, but not part of the figure.
        floor_bar: Share of the machine's limit that decoding has to reach; None if there is no target.
    """

    name: str
    kind: Kind
    shape: str
    against: tuple[str, ...]
    bar: float
    batch: int = 1
    beams: int = 1
    source: int = 64
    beside: tuple[str, ...] = ()
    floor_bar: float | None = None
    quick: bool = True
    full: bool = True

    @property
    def work(self) -> str:
        """Description of the row."""
        mode = f"beam {self.beams}" if self.beams > 1 else "greedy"
        return f"{self.shape}, {self.kind}, batch {self.batch} {mode}, source {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """Greedy search with copy speculation against plain greedy search, with the same tokens.

    Args:
        copied: True if the target is the source with 5 % edits; False if every token differs from the source's.
    """

    name: str
    copied: bool
    bar: float
    shape: str = BERT
    source: int = 64
    quick: bool = True
    full: bool = True

    @property
    def work(self) -> str:
        """Description of the row."""
        text = "target = source with 5 % edits" if self.copied else "target not copied"
        return f"{self.shape}, fp32, copy speculation against plain, {text}, source {self.source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Training on natural lengths, against transformers' Trainer; measured by benchmarks/train.py."""

    name: str
    kind: Kind
    bar: float
    shape: str = BERT
    pairs: int = 48
    quick: bool = False
    full: bool = True

    @property
    def work(self) -> str:
        """Description of the row."""
        return f"{self.shape}, {self.kind}, training, natural lengths, {self.pairs} pairs"


Row = Speed | Copying | Training

CT2_FLOAT, CT2_INT8 = ("ctranslate2 float32",), ("ctranslate2 int8",)

ROWS: tuple[Row, ...] = (
    Speed(name="bert-fp32-b1", kind="fp32", shape=BERT, against=TRANSFORMERS, bar=2.2, floor_bar=0.80),
    Speed(
        name="bert-fp32-b8-beam4",
        kind="fp32",
        shape=BERT,
        batch=8,
        beams=4,
        against=("transformers fp32",),
        beside=("transformers bf16",),
        bar=4.5,
    ),
    Speed(name="bert-bf16-b1", kind="bf16", shape=BERT, against=TRANSFORMERS, bar=3.2, floor_bar=0.65),
    Speed(name="bert-int8-b1", kind="int8", shape=BERT, against=TRANSFORMERS, bar=5.0, floor_bar=0.50),
    Speed(name="bart-fp32-b1", kind="fp32", shape=BART, against=CT2_FLOAT, bar=1.1, floor_bar=0.80),
    Speed(name="bart-fp32-b8", kind="fp32", shape=BART, batch=8, against=CT2_FLOAT, bar=1.6),
    Speed(name="bart-fp32-b1-beam4", kind="fp32", shape=BART, beams=4, against=CT2_FLOAT, bar=1.4),
    Speed(name="bart-bf16-b1", kind="bf16", shape=BART, against=CT2_FLOAT, bar=1.6, floor_bar=0.65),
    Speed(name="bart-bf16-b8", kind="bf16", shape=BART, batch=8, against=CT2_FLOAT, bar=2.2),
    Speed(name="bart-int8-b1", kind="int8", shape=BART, against=CT2_INT8, bar=1.4, floor_bar=0.50),
    Speed(name="bart-int8-b8", kind="int8", shape=BART, batch=8, against=CT2_INT8, bar=1.2),
    Speed(name="bart-int8-b1-s512", kind="int8", shape=BART, source=512, against=CT2_INT8, bar=1.4, quick=False),
    Speed(
        name="bart-int8-b8-s512", kind="int8", shape=BART, source=512, batch=8, against=CT2_INT8, bar=1.2, quick=False
    ),
    # Small models, where a step costs more Python than arithmetic. Full runs only, no floor.
    *(
        Speed(name=f"bart-{width}-{name}", kind="fp32", shape=shape, against=CT2_FLOAT, bar=1.0, quick=False, **work)
        for width, shape in ((256, BART_256), (64, BART_64))
        for name, work in (("b1", {"batch": 1}), ("b1-beam4", {"beams": 4}), ("b8", {"batch": 8}))
    ),
    Copying(name="copy-heavy", copied=True, bar=3.0),
    Copying(name="copy-never", copied=False, bar=0.95),
    Training(name="train-fp32", kind="fp32", bar=2.2),
    Training(name="train-bf16", kind="bf16", bar=3.5),
    Training(name="train-fp32-small", kind="fp32", bar=2.2, shape=MINILM, pairs=24, quick=True, full=False),
    Training(name="train-bf16-small", kind="bf16", bar=3.5, shape=MINILM, pairs=24, quick=True, full=False),
)
