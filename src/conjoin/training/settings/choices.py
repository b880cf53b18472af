"""What a run chooses by itself: a table of rules, each a pure function of facts, with the reason in words.

The numbers come from MiniLM joined to MiniLM on 36,000 package descriptions (benchmarks/results, decision 42) and are
carried to other widths as 1 / width, as rates of Adam are (muP, arXiv:2203.03466).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.training.settings.arguments import TrainingArguments

NEW_RATE = 7e-4
"""Of parts that learn to write, and of fresh cross-attention, at width 384: of 2e-4, 5e-4, 7e-4 and 1e-3 the best."""
WRITER_RATE = 3e-4
"""Of a decoder that is a language model already, at width 384: 2e-4 at SmolLM2's 576, where it is fine-tuned alone."""
TRAINED_RATE = 1.5e-4
"""Of a pair that was trained together before, at width 384: 7.5e-5 at the 768 of BART-base and T5-base."""
WIDTH, NARROW = 384, 256
"""Where the rates were measured; and the width below which they no longer rise: they would pass 1e-3."""
RANKING_RATE = 5e-5
"""Of a trained pair that learns to rank its own texts, at width 384: BRIO's highest is 2e-5, 1024 wide
(arXiv:2203.16804)."""
READER_SHARE = 1 / 20
"""The encoder's rate beside fresh cross-attention. At the same rate it forgets to tell sources apart."""
WARMUP, LONG_WARMUP = 0.05, 0.1
CPU_TOKENS, WRITER_TOKENS, GPU_TOKENS = 800, 1600, 4096
"""Of a batch on a CPU, on a CPU where a language model learns as a whole, and on a GPU."""
BATCH_PAIRS = 8
"""Pairs of mean length that a batch has at least."""
EPOCHS, MOST_EPOCHS, FEW_STEPS = 3, 10, 2000
PATIENCE = 2
SHORT_TARGETS = 1 / 3
"""Targets of fewer tokens than this share of their sources are summaries, whose sources may be cut."""
CUT_SOURCES, WHOLE_SOURCES, WHOLE_TARGETS = 95.0, 99.5, 99.9
"""Percentiles of lengths that are kept whole."""
MULTIPLE = 8
ROOM = 1.25
"""Longest result as a multiple of the longest target that was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What computes.

    Args:
        bf16: The instructions that multiply in bfloat16; None where that is slower than float32, or impossible.
    """

    bf16: str | None
    is_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFacts:
    """What the weights of a pair know already.

    Args:
        fresh: Parts of the model with parameters that no checkpoint had.
        writes: True if the decoder is a language model already.
        joined: True if its halves have not been trained together yet.
        width: hidden_size of the decoder.
        dropout: The largest dropout rate of the model.
        shares_all: True if the halves are one stack, whose parameters have the encoder's rate.
        limit: Tokens of a result at most, where its generation_config says so.
        positions: Target tokens that its decoder has positions for; None for any number.
    """

    fresh: frozenset[str]
    writes: bool
    joined: bool
    width: int
    dropout: float
    shares_all: bool = False
    limit: int | None = None
    positions: int | None = None

    @property
    def is_random(self) -> bool:
        """True if the encoder has not learnt anything either."""
        return "encoder.layers" in self.fresh

    @property
    def reads_anew(self) -> bool:
        """True if what the decoder reads its source with is fresh."""
        return "decoder.cross_attention" in self.fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFacts:
    """Two checkpoints that are to be joined.

    Args:
        one_vocabulary: True if both tokenizers give the same ids, and both word tables have the same shape.
        writes: True if the decoder is a language model already.
        can_gate: True if a gate that starts at 0 leaves the decoder as it was.
        reads_by_itself: True if the decoder's checkpoint has cross-attention of its own, or needs none.
        is_itself: True if encoder and decoder are one checkpoint, all of whose layers are joined.
    """

    one_vocabulary: bool
    writes: bool
    can_gate: bool
    reads_by_itself: bool
    is_itself: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What is to be learnt.

    Args:
        pairs: Number of training pairs.
        lengths: [n, 2] source ids and labels of the pairs, or of a sample of them.
        is_text: True if the pairs are tokenized by the run, which may cut them.
        validates: True if there are validation data that the run evaluates on.
        is_sized: False if sources are arrays, which an encoder of the caller's reads: there are no lengths.
        longest_target: Tokens of the longest target; 0 where that is not known, or the pairs are cut from raw text.
        ranks: True if the pairs have candidates, which the model learns to rank.
    """

    pairs: int
    lengths: NDArray[np.int64]
    is_text: bool
    validates: bool
    is_sized: bool = True
    longest_target: int = 0
    ranks: bool = False


_NO_DATA = DataFacts(pairs=0, lengths=np.zeros((0, 2), np.int64), is_text=False, validates=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that rules may look at."""

    data: DataFacts
    pair: PairFacts
    machine: Machine


@dataclass(frozen=True, slots=True)
class Choice:
    """The value of a setting, and why."""

    name: str
    value: Any
    reason: str


Chosen = tuple[Any, str] | None
"""A value and its reason; None where the setting has no effect on this run."""
Rule = Callable[[Facts, TrainingArguments], Chosen]


def choose(
    arguments: TrainingArguments, facts: Facts, names: Iterable[str] | None = None
) -> tuple[TrainingArguments, list[Choice]]:
    """Choose what the arguments leave to the run; later rules see what earlier ones chose.

    Args:
        names: Only these; all by default.

    Returns:
        The arguments with the values, and the choices. What was given stays as it is.
    """
    left, choices = arguments.to_choose, list[Choice]()
    open_names = list(left)
    for name, rule in RULES.items():
        if name not in left or (names is not None and name not in names):
            continue
        open_names.remove(name)
        found = rule(facts, arguments)
        arguments = arguments.copy(**({name: found[0]} if found else {}), auto=",".join(open_names))
        choices += [Choice(name, *found)] if found else []
    return arguments, choices


def safer(arguments: TrainingArguments, pair: PairFacts, *, ranks: bool = False) -> TrainingArguments:
    """Return arguments for a run that did not learn to read: half the rate that is chosen for such a pair, whatever the
    run's own was, since a rate that is too low does not teach it either; a twentieth for the encoder; a longer warm-up.

    Args:
        ranks: As in DataFacts.
    """
    facts = Facts(data=replace(_NO_DATA, ranks=ranks), pair=pair, machine=Machine(bf16=None, is_gpu=False))
    chosen = _learning_rate(facts, arguments)
    assert chosen is not None
    groups = ("decoder", "cross_attention")
    rate = _digits(chosen[0] / 2)
    warmup = float(arguments.warmup_steps)
    longer = min(0.5, max(LONG_WARMUP, 2 * warmup)) if warmup < 1 else 2 * warmup
    plain = "linear" if arguments.lr_scheduler_type == "noam" else arguments.lr_scheduler_type
    none = dict.fromkeys(f"{group}_warmup_steps" for group in ("encoder", *groups))
    none |= dict.fromkeys(f"{group}_learning_rate" for group in groups)
    return arguments.copy(
        learning_rate=rate,
        encoder_learning_rate=_digits(rate * READER_SHARE),
        warmup_steps=longer,
        two_optimizers=False,
        lr_scheduler_type=plain,
        **none,
    )


def choice_table(settings: Mapping[str, Any], reasons: Mapping[str, str]) -> Any:
    """Return a table of what was chosen, with its reasons, for rich's console."""
    from rich.table import Table

    table = Table("chosen", "value", "because", box=None)
    for name, reason in reasons.items():
        table.add_row(name, _shown(settings[name]), reason)
    return table


def choose_join(left: Iterable[str], facts: JoinFacts, given: str = "normal") -> list[Choice]:
    """Choose how two checkpoints are joined.

    Args:
        left: Settings that are left to the run.
        given: The start of cross-attention, where that is not left to the run.
    """
    left = list(left)
    start = _cross_attention_init(facts)
    init = start[0] if start is not None and "cross_attention_init" in left else given
    found: dict[str, Chosen] = {"share": _share(facts, init), "cross_attention_init": start}
    return [Choice(name, *chosen) for name in left if (chosen := found.get(name)) is not None]


def _share(facts: JoinFacts, init: str) -> Chosen:
    if facts.is_itself and init == "layerwise":
        return "all", "one language model reads the source and writes behind it"
    if facts.one_vocabulary:
        return "embeddings", "both halves have one vocabulary, and one table of it is less to learn"
    return "none", "the halves have different vocabularies"


def _cross_attention_init(facts: JoinFacts) -> Chosen:
    if facts.reads_by_itself:
        return None
    if facts.writes and facts.is_itself:
        return "layerwise", "the pair starts as the language model that it was, with the source as its prefix"
    if facts.writes and facts.can_gate:
        return "zero_gate", "the decoder starts as the language model that it was"
    return "normal", "the decoder has to learn to write anyway"


def _max_source_length(facts: Facts, args: TrainingArguments) -> Chosen:
    if not facts.data.is_text:
        return None
    source, target = facts.data.lengths.mean(0)
    summary = target < SHORT_TARGETS * source
    percentile = CUT_SOURCES if summary else WHOLE_SOURCES
    kind = "targets are short, as summaries are" if summary else "targets are about as long as sources"
    return _limit(facts.data.lengths[:, 0], percentile, "sources", kind)


def _max_target_length(facts: Facts, args: TrainingArguments) -> Chosen:
    if not facts.data.is_text:
        return None
    return _limit(facts.data.lengths[:, 1], WHOLE_TARGETS, "targets", "their ends must be learnt")


def _limit(lengths: NDArray[np.int64], percentile: float, what: str, kind: str) -> Chosen:
    longest, kept = int(lengths.max()), float(np.percentile(lengths, percentile))
    limit = MULTIPLE * math.ceil(kept / MULTIPLE)
    if longest <= 1.25 * limit:
        return None, f"the longest of {len(lengths):,} {what} has {longest} tokens, few more than the others"
    seen = f"{percentile:g} % of {len(lengths):,} {what}"
    return limit, f"{seen} have at most {kept:.0f} tokens, the longest {longest}; {kind}"


def _tokens_per_batch(facts: Facts, args: TrainingArguments) -> Chosen:
    if not facts.data.is_sized:
        return None
    lengths = facts.data.lengths
    longest = int(lengths.max(0).sum() if args.packing else lengths.sum(1).max())
    mean = float(lengths.sum(1).mean())
    base, why = CPU_TOKENS, "a short run gains more from many small steps"
    if _is_whole_writer(facts.pair):
        base, why = WRITER_TOKENS, "a language model's own weights take a third of a smaller step"
    if facts.machine.is_gpu:
        base, why = GPU_TOKENS, "a GPU is kept busy"
    wanted = max(base, BATCH_PAIRS * mean, longest)
    if wanted == longest:
        why = f"the longest pair has {longest}"
    elif wanted > base:
        why = f"{BATCH_PAIRS} pairs of {mean:.0f} tokens"
    return MULTIPLE * math.ceil(wanted / MULTIPLE), f"{why}; pairs of similar length together"


def _bf16(facts: Facts, args: TrainingArguments) -> Chosen:
    if facts.machine.bf16 is None:
        return False, "this processor has no fast products in bfloat16"
    return True, f"{facts.machine.bf16} multiplies in bfloat16; weights stay in float32"


def _num_train_epochs(facts: Facts, args: TrainingArguments) -> Chosen:
    if args.has_budget or args.max_steps > 0:
        return None
    per_epoch = max(1.0, _steps_per_epoch(facts, args))
    epochs = min(MOST_EPOCHS, max(EPOCHS, math.ceil(FEW_STEPS / per_epoch)))
    if epochs == EPOCHS:
        return float(epochs), f"{EPOCHS} passes are about {EPOCHS * per_epoch:,.0f} steps"
    reason = f"{facts.data.pairs:,} pairs are about {per_epoch:,.0f} steps a pass, and few steps teach little"
    return float(epochs), reason


def _steps_per_epoch(facts: Facts, args: TrainingArguments) -> float:
    mean = float(facts.data.lengths.sum(1).mean())
    per_batch = args.per_device_train_batch_size if args.tokens_per_batch is None else args.tokens_per_batch / mean
    return facts.data.pairs / max(1.0, per_batch) / args.gradient_accumulation_steps


def _learning_rate(facts: Facts, args: TrainingArguments) -> Chosen:
    pair = facts.pair
    if facts.data.ranks:
        return _scaled(RANKING_RATE, pair), "the model can write, and learns which of its texts are better"
    if pair.is_random:
        return _scaled(NEW_RATE, pair), f"the whole pair is fresh, {pair.width} wide"
    if pair.reads_anew:
        return _scaled(NEW_RATE, pair), f"cross-attention is fresh, in a decoder {pair.width} wide"
    if pair.joined and not pair.writes:
        return _scaled(NEW_RATE, pair), f"the decoder, {pair.width} wide, has to learn to write"
    if pair.joined:
        return _scaled(WRITER_RATE, pair), f"a language model {pair.width} wide, and nothing is fresh"
    return _scaled(TRAINED_RATE, pair), f"both halves, {pair.width} wide, were trained together before"


def _encoder_learning_rate(facts: Facts, args: TrainingArguments) -> Chosen:
    pair = facts.pair
    if pair.is_random or not (pair.reads_anew or (pair.joined and not pair.writes)):
        return None
    if pair.shares_all:
        return _digits(args.learning_rate / 5), "one stack reads and writes; its reading must outlast the start"
    reason = "a twentieth: an encoder that learns as fast forgets how to tell sources apart"
    return _digits(args.learning_rate * READER_SHARE), reason


def _decoder_learning_rate(facts: Facts, args: TrainingArguments) -> Chosen:
    if not _is_grafted_writer(facts.pair):
        return None
    return _scaled(WRITER_RATE, facts.pair), "it is a language model already"


def _cross_attention_learning_rate(facts: Facts, args: TrainingArguments) -> Chosen:
    if not _is_grafted_writer(facts.pair):
        return None
    return args.learning_rate, "it is fresh"


def _is_whole_writer(pair: PairFacts) -> bool:
    """True if a language model was joined without fresh weights, so that all of it learns at one rate."""
    return pair.joined and pair.writes and not pair.fresh


def _is_grafted_writer(pair: PairFacts) -> bool:
    return pair.reads_anew and pair.writes and not pair.is_random


def _lr_scheduler_type(facts: Facts, args: TrainingArguments) -> Chosen:
    return "linear", "falls to 0 at the end of the run"


def _warmup_steps(facts: Facts, args: TrainingArguments) -> Chosen:
    if args.lr_scheduler_type in ("noam", "inverse_sqrt"):
        return None
    if _is_one_step(facts, args):
        return 0.0, "the run has one step, and a warm-up begins with a rate of 0"
    if facts.pair.is_random:
        return LONG_WARMUP, "part of the run: nothing is trained yet"
    return WARMUP, "part of the run: Adam's means are short of examples at first"


def _is_one_step(facts: Facts, args: TrainingArguments) -> bool:
    if args.has_budget:
        return False
    return args.max_steps == 1 if args.max_steps > 0 else args.num_train_epochs * _steps_per_epoch(facts, args) <= 1


def _dropout_from_epoch(facts: Facts, args: TrainingArguments) -> Chosen:
    if not facts.pair.dropout or args.gradient_checkpointing or not facts.data.is_sized:
        return None
    if args.r_drop or args.lora_dropout:  # asked for from the first pass on
        return None
    rate = facts.pair.dropout
    return 1.0, f"new pairs cannot be learnt by heart; dropout ({rate:g}) begins with the second pass"


def _generation_max_length(facts: Facts, args: TrainingArguments) -> Chosen:
    longest, pair = facts.data.longest_target, facts.pair
    limit = MULTIPLE * math.ceil(ROOM * longest / MULTIPLE)
    if pair.positions is not None:
        limit = min(limit, pair.positions - 1)
    if not longest or (pair.limit is not None and pair.limit >= min(longest, limit)):
        return None
    before = (
        "the model has no limit of its own" if pair.limit is None else f"results of the model end after {pair.limit}"
    )
    return limit, f"the longest target has {longest} tokens, and {before}"


def _ema_decay(facts: Facts, args: TrainingArguments) -> Chosen:
    if args.lr_scheduler_type in ("linear", "cosine"):
        return None, "the rate falls to 0, which averages the last steps already"
    return 0.999, f"the rate is never low with {args.lr_scheduler_type}, and the average of the weights is better"


def _load_best_model_at_end(facts: Facts, args: TrainingArguments) -> Chosen:
    if not _may_stop(facts, args):
        return None
    return True, "later passes may be worse on the validation data"


def _early_stopping_patience(facts: Facts, args: TrainingArguments) -> Chosen:
    if not _may_stop(facts, args):
        return None
    return PATIENCE, "evaluations without improvement: then more passes only learn by heart"


def _may_stop(facts: Facts, args: TrainingArguments) -> bool:
    """True if the run is measured in passes, keeps what it evaluated, and goes by what improves: with candidates to
    rank, the loss rises.
    """
    is_kept = args.save_strategy != "no" and args.eval_strategy != "no"
    rises = facts.data.ranks and args.metric_for_best_model.removeprefix("eval_") == "loss"
    return facts.data.validates and is_kept and not rises and not args.has_budget and args.max_steps < 1


def _recover(facts: Facts, args: TrainingArguments) -> Chosen:
    return True, "a run that goes wrong goes back, or starts again once"


def _digits(rate: float) -> float:
    return float(f"{rate:.1e}")


def _scaled(rate: float, pair: PairFacts) -> float:
    """Return a rate for the decoder's width."""
    return _digits(rate * WIDTH / max(pair.width, NARROW))


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"


RULES: dict[str, Rule] = {
    "max_source_length": _max_source_length,
    "max_target_length": _max_target_length,
    "tokens_per_batch": _tokens_per_batch,
    "bf16": _bf16,
    "num_train_epochs": _num_train_epochs,
    "learning_rate": _learning_rate,
    "encoder_learning_rate": _encoder_learning_rate,
    "decoder_learning_rate": _decoder_learning_rate,
    "cross_attention_learning_rate": _cross_attention_learning_rate,
    "lr_scheduler_type": _lr_scheduler_type,
    "warmup_steps": _warmup_steps,
    "dropout_from_epoch": _dropout_from_epoch,
    "generation_max_length": _generation_max_length,
    "ema_decay": _ema_decay,
    "load_best_model_at_end": _load_best_model_at_end,
    "early_stopping_patience": _early_stopping_patience,
    "recover": _recover,
}
"""Setting -> rule, in the order in which they are chosen."""
LIMITS = ("max_source_length", "max_target_length")
"""Settings that are chosen before the data are tokenized."""
