"""The rows of the CPU benchmark: one for each figure, with its target ("bar")."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fp32", "bf16", "int8"]

NEW_TOKENS = 32
BERT, BART, MINILM = "bert-base x bert-base", "bart-base", "MiniLM-L6 x MiniLM-L6"
BART_64 = "bart, 2 layers of 64"
BART_SMALL = {256: "bart, 4 layers of 256", 384: "bart, 6 layers of 384", 512: "bart, 6 layers of 512"}
SMALL = {BERT: "tiny", MINILM: "tiny"} | dict.fromkeys((BART, BART_64, *BART_SMALL.values()), "bart-tiny")
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
        threads: None for those of the whole run.
        isa: Instruction set that all contenders are limited to, a key of `_isa.py`; None for the machine's own.
        group: Rows whose median has a bar of its own, a key of `MEDIANS`.
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
    threads: int | None = None
    isa: str | None = None
    group: str | None = None
    quick: bool = True
    full: bool = True

    @property
    def work(self) -> str:
        """Description of the row."""
        mode = f"beam {self.beams}" if self.beams > 1 else "greedy"
        limits = [self.isa] if self.isa else []
        limits += [f"{self.threads} thread"] if self.threads else []
        return ", ".join((f"{self.shape}, {self.kind}, batch {self.batch} {mode}, source {self.source}", *limits))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a step and a call cost where arithmetic costs nearly nothing; the ratio is the step's, to CTranslate2's.

    Args:
        step_us: Most microseconds of a step: 31 of 32 tokens, batch 1 greedy, source 64.
        call_ms: Most milliseconds of generating one token: the call, the encoder and the first step.
    """

    name: str
    step_us: float
    call_ms: float
    shape: str = BART_64
    against: str = "ctranslate2 float32"
    quick: bool = False
    full: bool = True

    @property
    def work(self) -> str:
        """Description of the row."""
        return f"{self.shape}, fp32, batch 1 greedy, source 64: a step, and the call around it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """Generating for many sources of natural lengths, whose targets end at natural lengths, in time per target token.

    The figure is the ratio of static batches, sorted by the sources' lengths, to bulk generation.
    """

    name: str
    bar: float
    kind: Kind = "fp32"
    shape: str = MINILM
    sources: int = 2000
    batch: int = 16
    quick: bool = False
    full: bool = True

    @property
    def work(self) -> str:
        """Description of the row."""
        lengths = f"{self.sources} sources and targets of natural lengths"
        return f"{self.shape}, {self.kind}, {lengths}, batches of {self.batch}"


Row = Speed | Copying | Training | Step | Bulk

CT2_FLOAT, CT2_INT8 = ("ctranslate2 float32",), ("ctranslate2 int8",)
SHAPES: dict[str, dict[str, int]] = {"b1": {"batch": 1}, "b1-beam4": {"beams": 4}, "b8": {"batch": 8}}
MEDIANS = {"small": 1.5}
"""Bars of the median ratio of a group of rows."""

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
    # Bars of bart-base: what was measured on a Zen 4 with 2 threads on 2026-11-29, less 5 % for noise, where that is
    # more than what was promised before.
    Speed(name="bart-fp32-b1", kind="fp32", shape=BART, against=CT2_FLOAT, bar=1.8, floor_bar=0.80),
    Speed(name="bart-fp32-b8", kind="fp32", shape=BART, batch=8, against=CT2_FLOAT, bar=1.9),
    Speed(
        name="bart-fp32-b8-beam4", kind="fp32", shape=BART, batch=8, beams=4, against=CT2_FLOAT, bar=2.0, quick=False
    ),
    Speed(name="bart-fp32-b1-beam4", kind="fp32", shape=BART, beams=4, against=CT2_FLOAT, bar=1.4),
    Speed(name="bart-bf16-b1", kind="bf16", shape=BART, against=CT2_FLOAT, bar=1.6, floor_bar=0.65),
    Speed(name="bart-bf16-b8", kind="bf16", shape=BART, batch=8, against=CT2_FLOAT, bar=2.2),
    Speed(name="bart-int8-b1", kind="int8", shape=BART, against=CT2_INT8, bar=2.5, floor_bar=0.50),
    Speed(name="bart-int8-b8", kind="int8", shape=BART, batch=8, against=CT2_INT8, bar=2.0),
    Speed(name="bart-int8-b8-beam4", kind="int8", shape=BART, batch=8, beams=4, against=CT2_INT8, bar=1.8, quick=False),
    *(
        Speed(name=f"bart-int8-{name}-s512", kind="int8", shape=BART, source=512, against=CT2_INT8, quick=False, **work)
        for name, work in {
            "b1": {"bar": 2.0},
            "b8": {"bar": 1.8, "batch": 8},
            "b8-beam4": {"bar": 1.6, "batch": 8, "beams": 4},
        }.items()
    ),
    # Processors without AVX-512.
    *(
        Speed(
            name=f"bart-avx2-{kind}-{name}",
            kind=kind,
            shape=BART,
            against=against,
            bar=bar,
            isa="avx2",
            quick=False,
            **SHAPES[name],
        )
        for kind, against, bars in (("fp32", CT2_FLOAT, (1.1, 1.3, 1.3)), ("int8", CT2_INT8, (1.15, 1.2, 1.3)))
        for name, bar in zip(("b1", "b8", "b1-beam4"), bars, strict=True)
    ),
    # Small models, as they are deployed: one thread each.
    *(
        Speed(
            name=f"small-{width}-{kind}-{name}",
            kind=kind,
            shape=shape,
            against=against,
            bar=1.1,
            threads=1,
            group="small",
            quick=False,
            **work,
        )
        for width, shape in BART_SMALL.items()
        for kind, against in (("fp32", CT2_FLOAT), ("int8", CT2_INT8))
        for name, work in SHAPES.items()
    ),
    # Models so small that a step costs more Python than arithmetic.
    *(
        Speed(name=f"bart-64-{name}", kind="fp32", shape=BART_64, against=CT2_FLOAT, bar=1.0, quick=False, **work)
        for name, work in SHAPES.items()
    ),
    Step(name="bart-64-step", step_us=150, call_ms=1),
    Bulk(name="bulk-2000", bar=1.5),
    Bulk(name="bulk-2000-bf16", kind="bf16", bar=1.5),
    Copying(name="copy-heavy", copied=True, bar=3.0),
    Copying(name="copy-never", copied=False, bar=0.95),
    Training(name="train-fp32", kind="fp32", bar=2.2),
    Training(name="train-bf16", kind="bf16", bar=3.5),
    Training(name="train-fp32-small", kind="fp32", bar=2.2, shape=MINILM, pairs=24, quick=True, full=False),
    Training(name="train-bf16-small", kind="bf16", bar=3.5, shape=MINILM, pairs=24, quick=True, full=False),
)
