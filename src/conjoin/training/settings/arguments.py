"""What a run is told: one dataclass, with Hugging Face's field names where it has one."""

from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from conjoin.errors import ConfigError, listing, shown
from conjoin.limits import Range
from conjoin.training.settings.ranges import (
    AVERAGED,
    COUNT,
    KEPT,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    STEPS,
    out_of_range,
)

Strategy = Literal["auto", "no", "steps", "epoch"]
Schedule = Literal["linear", "constant", "constant_with_warmup", "cosine", "inverse_sqrt", "noam"]
Sampling = Literal["group_by_length", "random", "sequential"]
Sharding = Literal["none", "full"]
Report = Literal["auto", "tensorboard", "none"]
GROUPS = ("encoder", "decoder", "cross_attention")
"""Parts of a model that may have a learning rate and a warm-up of their own."""


def word(default: Any, text: str, numbers: Range | None = None) -> Any:
    """A field with the help text that the command line prints, and the range of its numbers."""
    return field(default=default, metadata={"help": text, "range": numbers})


@dataclass(kw_only=True)
class TrainingArguments:
    """How a run trains; the command line's flags and a recipe's keys are these words.

    Raises:
        ConfigError: values that contradict each other or are out of range, all of them in one error.
    """

    output_dir: str = word("trainer_output", "The run's folder: metrics, checkpoints and the final model.")
    overwrite_output_dir: bool = word(False, "Start anew in a folder that holds a run; its checkpoints are deleted.")
    resume_from_checkpoint: str | None = word(None, 'A checkpoint to go on from; "latest" for the newest of the run.')

    source_column: str = word("source", "Name of the column that is read; dots go into nested ones.")
    target_column: str = word("target", "Name of the column that is to be written.")
    source_prefix: str = word("", "Text put before every source, as T5 wants.")
    source_language: str | None = word(None, "Code of the sources' language, as en_XX; the tokenizer's own by default.")
    target_language: str | None = word(
        None, "Code of the targets' language, with which generation then starts; the tokenizer's own by default."
    )
    max_source_length: int | None = word(None, "Longer sources are cut; the encoder's limit by default.", COUNT)
    max_target_length: int | None = word(None, "Longer targets are cut; the decoder's limit by default.", COUNT)
    drop_empty: bool = word(False, "Leave out pairs with an empty source or target, which are an error otherwise.")

    num_train_epochs: float = word(3.0, "Passes over the training data.", POSITIVE)
    max_steps: int = word(-1, "Stop after so many steps; overrides num_train_epochs.", STEPS)
    per_device_train_batch_size: int = word(8, "Pairs per batch, where tokens_per_batch is not given.", COUNT)
    per_device_eval_batch_size: int = word(
        8, "Pairs per batch of an evaluation, where tokens_per_batch is not given.", COUNT
    )
    tokens_per_batch: int | None = word(
        None, "Source and target tokens per batch, padding included, instead of pairs.", COUNT
    )
    packing: bool = word(False, "Put several pairs in a row, apart by masks, so that nothing is padding.")
    gradient_accumulation_steps: int = word(1, "Batches per step.", COUNT)
    train_sampling_strategy: Sampling = word(
        "group_by_length", "Order of the data: pairs of like length together, random or sequential."
    )
    dataloader_drop_last: bool = word(False, "Leave out an epoch's last step where it has fewer batches.")
    seed: int = word(42, "Of weights that are fresh, order of the data and dropout.", SEED)

    learning_rate: float = word(5e-5, "Of the highest point of the schedule.", NOT_NEGATIVE)
    encoder_learning_rate: float | None = word(None, "Of the encoder; learning_rate by default.", NOT_NEGATIVE)
    decoder_learning_rate: float | None = word(None, "Of the decoder; learning_rate by default.", NOT_NEGATIVE)
    cross_attention_learning_rate: float | None = word(
        None, "Of cross-attention; the decoder's by default.", NOT_NEGATIVE
    )
    lr_scheduler_type: Schedule = word("linear", "How the learning rate goes on after its warm-up.")
    warmup_steps: float = word(
        0, "Steps in which the learning rate rises; below 1, a share of all steps.", NOT_NEGATIVE
    )
    encoder_warmup_steps: float | None = word(None, "Of the encoder; warmup_steps by default.", NOT_NEGATIVE)
    decoder_warmup_steps: float | None = word(None, "Of the decoder; warmup_steps by default.", NOT_NEGATIVE)
    cross_attention_warmup_steps: float | None = word(
        None, "Of cross-attention; the decoder's by default.", NOT_NEGATIVE
    )
    two_optimizers: bool = word(
        False, "Liu & Lapata 2019: encoder 0.002 after 20000 steps, decoder 0.2 after 10000, beta 0.9 and 0.999, noam."
    )
    fresh_first: int = word(0, "Train only fresh parameters for so many steps (T5Gemma: 1000), then all.", NOT_NEGATIVE)
    freeze: str = word("", "Parts that are not trained, with commas: encoder, decoder.embedding, ...")
    weight_decay: float = word(0.0, "Of matrices; norms and biases have none.", NOT_NEGATIVE)
    adam_beta1: float = word(0.9, "AdamW's decay of means.", SHARE)
    adam_beta2: float = word(0.999, "AdamW's decay of squares.", SHARE)
    adam_epsilon: float = word(1e-8, "AdamW's smallest divisor.", POSITIVE)
    max_grad_norm: float = word(1.0, "Longer gradients are shortened to this; 0 for never.", NOT_NEGATIVE)
    label_smoothing_factor: float = word(0.0, "Share of every target that is spread over the vocabulary.", SHARE)
    ema_decay: float | None = word(
        None, "Keep a moving average of the weights, evaluate and save it; 0.999, say.", AVERAGED
    )

    bf16: bool = word(False, "Compute in bfloat16, keep weights in float32.")
    fp16: bool = word(False, "Compute in float16 with a scaled loss, keep weights in float32.")
    gradient_checkpointing: bool = word(False, "Recompute blocks in the backward pass: less memory, more time.")
    torch_compile: bool = word(False, "Compile the model: faster steps after minutes of waiting.")
    use_cpu: bool = word(False, "Stay on the CPU where there is a GPU.")
    fsdp: Sharding = word("none", "Shard weights, gradients and optimizer over the processes (FSDP2).")

    logging_steps: int = word(20, "Write the loss every so many steps.", COUNT)
    eval_strategy: Strategy = word("auto", "When to evaluate; every epoch by default, if there is validation data.")
    eval_steps: int | None = word(
        None, "Steps between evaluations, with eval_strategy=steps; logging_steps by default.", COUNT
    )
    eval_samples: int = word(
        3, "Pairs of the validation data whose prediction is written at every evaluation.", NOT_NEGATIVE
    )
    predict_with_generate: bool = word(False, "Generate in evaluations, for metrics of texts.")
    metrics: str = word("", "Metrics of texts, with commas: rouge, bleu, ...; needs predict_with_generate.")
    generation_max_length: int | None = word(
        None, "Longest target in evaluations; max_target_length by default.", COUNT
    )
    generation_num_beams: int | None = word(None, "Beams in evaluations; the model's own setting by default.", COUNT)
    save_strategy: Strategy = word("auto", "When to keep a checkpoint; every save_steps and at every evaluation.")
    save_steps: int = word(500, "Steps between checkpoints.", COUNT)
    save_total_limit: int | None = word(2, "Checkpoints kept: the best and the latest ones.", KEPT)
    load_best_model_at_end: bool = word(False, "Let the final model be the best one rather than the last.")
    metric_for_best_model: str = word("loss", "What makes a model the best: loss, or a metric's name.")
    greater_is_better: bool | None = word(
        None, "Whether that is high; it is by default, but for losses and error rates."
    )
    early_stopping_patience: int | None = word(None, "Stop after so many evaluations that were no better.", COUNT)
    early_stopping_threshold: float = word(0.0, "What counts as better.", NOT_NEGATIVE)
    doctor: bool = word(True, "Check model and first batch before the first step; stop if training is bound to fail.")
    report_to: Report = word("auto", "Where numbers go besides metrics.jsonl; to TensorBoard where it is installed.")

    def __post_init__(self) -> None:
        """Check values, and spell out what one flag stands for."""
        wrong = [*_wrong_types(self), *out_of_range(self), *self._contradictions()]
        if wrong:
            raise ConfigError(f"These training arguments cannot be used:\n{listing(wrong)}")
        if self.two_optimizers:
            self._as_liu_and_lapata()

    def _contradictions(self) -> list[str]:
        wrong: list[str] = []
        if self.bf16 and self.fp16:
            wrong.append("bf16 and fp16 are both asked for; expected one of them.")
        if self.fsdp != "none" and (self.fp16 or self.fresh_first):
            other = "fp16; use bf16" if self.fp16 else "fresh_first; use neither or DDP (fsdp = none)"
            wrong.append(f"fsdp = {self.fsdp!r} does not go with {other}.")
        if self.packing and self.tokens_per_batch is None:
            wrong.append("packing = True without tokens_per_batch; packed rows are filled up to a number of tokens.")
        if self.metrics and not self.predict_with_generate:
            wrong.append(
                f"metrics = {shown(self.metrics)} without predict_with_generate; there are no texts to compare."
            )
        if self.load_best_model_at_end and self.save_strategy == "no":
            wrong.append('load_best_model_at_end = True with save_strategy = "no"; the best model would not be kept.')
        return wrong

    def _as_liu_and_lapata(self) -> None:
        """Values of Liu & Lapata 2019 (arXiv:1908.08345) and its code, where the user gives none."""
        recipe = {
            "encoder_learning_rate": 0.002,
            "encoder_warmup_steps": 20000,
            "decoder_learning_rate": 0.2,
            "decoder_warmup_steps": 10000,
        }
        for name, value in recipe.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.lr_scheduler_type = "noam"
        self.adam_beta1, self.adam_beta2 = 0.9, 0.999

    def of_group(self, name: Literal["learning_rate", "warmup_steps"], group: str) -> float:
        """A value of one part of the model, or what it falls back to."""
        order = [group] if group != "cross_attention" else [group, "decoder"]
        own = (getattr(self, f"{part}_{name}") for part in order)
        return next((value for value in own if value is not None), getattr(self, name))

    @property
    def better_when_greater(self) -> bool:
        """Whether a high value of metric_for_best_model is good."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not self.metric_for_best_model.endswith(("loss", "perplexity", "wer", "cer", "ter"))

    def to_dict(self) -> dict[str, Any]:
        """Every value by its name."""
        return asdict(self)

    def copy(self, **changes: Any) -> Self:
        """The same arguments with some changed."""
        return replace(self, **changes)


def _wrong_types(arguments: Any) -> list[str]:
    kinds = get_type_hints(type(arguments))
    wrong: list[str] = []
    for each in fields(arguments):
        value, kind = getattr(arguments, each.name), kinds[each.name]
        if not fits(value, kind):
            wrong.append(f"{each.name} = {shown(value)}; expected {expectation(kind)}.")
    return wrong


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers are floats too, booleans are no numbers."""
    if get_origin(kind) is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(kind))
    if args := get_args(kind):
        return any(fits(value, each) for each in args)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def expectation(kind: Any) -> str:
    """How an error names an annotated type."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if args := get_args(kind):
        return " or ".join(expectation(each) for each in args)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(kind, str(kind))


def help_of(each: "Field[Any]") -> str:
    """What the command line prints about a field."""
    return each.metadata["help"]
