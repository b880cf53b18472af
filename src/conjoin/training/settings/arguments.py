"""The arguments of a training run: one dataclass, with Hugging Face's field names where it has one."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, cast, get_args, get_origin, get_type_hints

from conjoin import limits
from conjoin.errors import ConfigError, listing, shown
from conjoin.evaluation.utilities import Utility
from conjoin.limits import Range

Strategy = Literal["auto", "no", "steps", "epoch"]
Schedule = Literal["linear", "constant", "constant_with_warmup", "cosine", "inverse_sqrt", "noam"]
Sampling = Literal["group_by_length", "random", "sequential"]
Sharding = Literal["none", "full"]
Report = Literal["auto", "tensorboard", "none"]
Objective = Literal["prefixlm", "ul2", "denoise"]
GROUPS = ("encoder", "decoder", "cross_attention")
"""Parts of a model that may have a learning rate and a warmup of their own."""

AUTO = "auto"
"""The value that leaves a setting to the run, on the command line and in recipes."""
JOIN_CHOICES = ("share", "cross_attention_init")
"""Settings of a join that `conjoin train` can choose."""
CHOOSABLE = (
    "max_source_length",
    "max_target_length",
    "tokens_per_batch",
    "bf16",
    "num_train_epochs",
    "learning_rate",
    "encoder_learning_rate",
    "decoder_learning_rate",
    "cross_attention_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "dropout_from_epoch",
    "generation_max_length",
    "ema_decay",
    "load_best_model_at_end",
    "early_stopping_patience",
    "recover",
)
"""Settings of training that a run can choose, in the order in which `choices` chooses them."""

_SETTLES: dict[str, tuple[str, ...]] = {
    "learning_rate": tuple(f"{group}_learning_rate" for group in GROUPS),
    "per_device_train_batch_size": ("tokens_per_batch",),
    "fp16": ("bf16",),
    "average_checkpoints": ("ema_decay",),
    "two_optimizers": (
        "learning_rate",
        "encoder_learning_rate",
        "decoder_learning_rate",
        "warmup_steps",
        "cross_attention_learning_rate",
        "lr_scheduler_type",
    ),
}
"""Settings of transformers that, where they are given, mean what they mean there: one rate for all parts, say."""


def left_open(given: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return those of the names that a run may choose although these settings are given."""
    settled = {name for setting in given if given[setting] for name in _SETTLES.get(setting, ())}
    return [name for name in names if given.get(name) == AUTO or name not in given.keys() | settled]


COUNT = Range(lambda value: 1 <= value < math.inf, "1 or more")
SEVERAL = Range(lambda value: 2 <= value < math.inf, "2 or more")
STEPS = Range(lambda value: value == -1 or 1 <= value < math.inf, "1 or more, or -1 for num_train_epochs")
CHECKPOINTS = Range(COUNT.holds, "1 or more, or none for all")
NOT_NEGATIVE = Range(lambda value: 0 <= value < math.inf, "0 or more")
POSITIVE = Range(lambda value: 0 < value < math.inf, "a number above 0")
SHARE = Range(lambda value: 0 <= value < 1, "0 or more, below 1")
UNIT = Range(lambda value: 0 <= value <= 1, "a number from 0 to 1")
DECAY = Range(lambda value: 0 < value < 1, "a number between 0 and 1, such as 0.999")
SEED = Range(lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")
"""What numpy's generators accept; PyTorch's and JAX's accept more."""


def arg(default: Any, description: str, numbers: Range | None = None) -> Any:
    """Return a dataclass field with the help text of its flag and the range of its numbers."""
    return field(default=default, metadata={"help": description, "range": numbers})


@dataclass(kw_only=True)
class TrainingArguments:
    """How a run trains. The flags of the command line and the keys of a recipe have the same names.

    Raises:
        ConfigError: values that contradict each other or are out of range, all of them in one error.
    """

    output_dir: str = arg("trainer_output", "Folder of the run: metrics, checkpoints and the final model.")
    overwrite_output_dir: bool = arg(False, "Start anew in a folder that holds a run, and delete its checkpoints.")
    resume_from_checkpoint: str | None = arg(None, 'Checkpoint to resume from; "latest" for the newest one of the run.')

    source_column: str = arg("source", "Column of the source texts; dots reach into nested columns.")
    target_column: str = arg("target", "Column of the target texts.")
    source_prefix: str = arg("", "Text put before every source, such as T5's task prefix.")
    source_language: str | None = arg(
        None, "Language code of the sources, such as en_XX; the tokenizer's own by default."
    )
    target_language: str | None = arg(
        None, "Language code of the targets, with which generation starts; the tokenizer's own by default."
    )
    max_source_length: int | None = arg(None, "Truncate longer sources; the encoder's limit by default.", COUNT)
    max_target_length: int | None = arg(None, "Truncate longer targets; the decoder's limit by default.", COUNT)
    drop_empty: bool = arg(False, "Drop pairs with an empty source or target, which are an error otherwise.")
    data_cache: bool = arg(
        True, "Keep tokenized data of files and data sets on the disk, for this run and later ones, not in memory."
    )
    data_cache_dir: str | None = arg(None, "Folder for tokenized data; one in the user's cache folder by default.")
    preprocessing_num_workers: int = arg(1, "Processes that tokenize; one uses all threads of the tokenizer.", COUNT)

    auto: str = arg(
        "",
        "Settings that the run chooses by data, model and machine: names separated by commas, or none; "
        "on the command line, all that are not given by default.",
    )
    num_train_epochs: float = arg(3.0, "Number of passes over the training data.", POSITIVE)
    max_steps: int = arg(-1, "Number of optimizer steps; overrides num_train_epochs.", STEPS)
    max_minutes: float | None = arg(
        None, "Minutes that the whole command may take, joining, evaluating and saving included.", POSITIVE
    )
    max_tokens: int | None = arg(None, "Source and target tokens to train on, without padding.", COUNT)
    per_device_train_batch_size: int = arg(8, "Pairs per training batch, unless tokens_per_batch is set.", COUNT)
    per_device_eval_batch_size: int = arg(8, "Pairs per evaluation batch, unless tokens_per_batch is set.", COUNT)
    tokens_per_batch: int | None = arg(
        None, "Batch size in source and target tokens, padding included, instead of pairs.", COUNT
    )
    packing: bool = arg(False, "Pack several pairs into each row, separated by masks, to avoid padding.")
    gradient_accumulation_steps: int = arg(1, "Batches per optimizer step.", COUNT)
    train_sampling_strategy: Sampling = arg(
        "group_by_length", "Order of the data: pairs of similar length together, random or sequential."
    )
    dataloader_drop_last: bool = arg(False, "Drop an epoch's last step if it has fewer batches.")
    seed: int = arg(42, "Random seed for new weights, data order and dropout.", SEED)

    learning_rate: float = arg(5e-5, "Peak learning rate.", NOT_NEGATIVE)
    encoder_learning_rate: float | None = arg(
        None, "Learning rate of the encoder; learning_rate by default.", NOT_NEGATIVE
    )
    decoder_learning_rate: float | None = arg(
        None, "Learning rate of the decoder; learning_rate by default.", NOT_NEGATIVE
    )
    cross_attention_learning_rate: float | None = arg(
        None, "Learning rate of cross-attention; the decoder's by default.", NOT_NEGATIVE
    )
    lr_scheduler_type: Schedule = arg("linear", "Learning rate schedule after the warmup.")
    warmup_steps: float = arg(0, "Number of warmup steps; below 1, a fraction of all steps.", NOT_NEGATIVE)
    encoder_warmup_steps: float | None = arg(
        None, "Warmup steps of the encoder; warmup_steps by default.", NOT_NEGATIVE
    )
    decoder_warmup_steps: float | None = arg(
        None, "Warmup steps of the decoder; warmup_steps by default.", NOT_NEGATIVE
    )
    cross_attention_warmup_steps: float | None = arg(
        None, "Warmup steps of cross-attention; the decoder's by default.", NOT_NEGATIVE
    )
    two_optimizers: bool = arg(
        False, "Liu & Lapata 2019: encoder 0.002, 20000 warmup steps; decoder 0.2, 10000; betas 0.9, 0.999; noam."
    )
    fresh_first: int = arg(0, "Train only new parameters for this many steps (T5Gemma: 1000).", NOT_NEGATIVE)
    dropout_from_epoch: float = arg(
        0.0, "Passes over the data without dropout, after which the model's own dropout begins.", NOT_NEGATIVE
    )
    freeze: str = arg("", "Parts to freeze, separated by commas: encoder, decoder.embedding, ...")
    lora: int | None = arg(
        None,
        "Rank of LoRA's adapters, which are trained in place of weights; cross-attention is trained in full.",
        COUNT,
    )
    lora_alpha: float | None = arg(None, "Scale of the adapters, over the rank; twice the rank by default.", POSITIVE)
    lora_dropout: float = arg(0.0, "Dropout of the adapters' inputs.", SHARE)
    dora: bool = arg(False, "DoRA: the adapters learn magnitudes and directions of weights apart.")
    lora_targets: str = arg("", "Layers with adapters, of q, k, v, o, up, gate, down; all by default.")
    lora_merge: bool = arg(True, "Merge the adapters into the final model; else they are files of peft beside it.")
    weight_decay: float = arg(0.0, "Weight decay of matrices; norms and biases have none.", NOT_NEGATIVE)
    adam_beta1: float = arg(0.9, "AdamW's beta1.", SHARE)
    adam_beta2: float = arg(0.999, "AdamW's beta2.", SHARE)
    adam_epsilon: float = arg(1e-8, "AdamW's epsilon.", POSITIVE)
    max_grad_norm: float = arg(1.0, "Clip the gradient norm to this value; 0 disables clipping.", NOT_NEGATIVE)
    label_smoothing_factor: float = arg(0.0, "Label smoothing: probability spread over the whole vocabulary.", SHARE)
    r_drop: float = arg(
        0.0, "R-Drop: weight of what two passes with dropout disagree on; the paper has 0.7 to 5.", NOT_NEGATIVE
    )
    teacher: str | None = arg(
        None, "Folder or hub id of a model with the same target vocabulary, whose token probabilities are learnt too."
    )
    teacher_alpha: float = arg(0.5, "Share of the teacher in the loss; the rest is cross-entropy.", UNIT)
    teacher_temperature: float = arg(
        2.0, "Divides the logits of teacher and model: above 1, unlikely tokens matter more.", POSITIVE
    )
    ranking_utility: Utility = arg("rouge", "What orders the candidates of calibrate, by their targets.")
    ranking_weight: float = arg(10.0, "Weight of the ranking loss of calibrate (BRIO).", POSITIVE)
    ranking_likelihood: float = arg(0.1, "Weight of the cross-entropy of the targets beside it.", NOT_NEGATIVE)
    ranking_margin: float = arg(
        0.1,
        "Margin between the scores of candidates, for each rank between them; BRIO has 0.001 for long targets.",
        NOT_NEGATIVE,
    )
    ranking_length_penalty: float = arg(
        0.6, "A candidate's score is its log-probability / length ** this; BRIO has 2.0 for long targets.", NOT_NEGATIVE
    )
    ema_decay: float | None = arg(
        None, "Keep a moving average of the weights with this decay (0.999, say); evaluate and save it.", DECAY
    )

    average_checkpoints: int | None = arg(
        None,
        "Average the weights of the last N evaluations at the end, if that is better on the validation data.",
        SEVERAL,
    )

    bf16: bool = arg(False, "Compute in bfloat16; weights stay in float32.")
    fp16: bool = arg(False, "Compute in float16 with loss scaling; weights stay in float32.")
    gradient_checkpointing: bool = arg(False, "Recompute activations in the backward pass: less memory, more time.")
    torch_compile: bool = arg(False, "Compile the model: faster steps after minutes of compilation.")
    use_cpu: bool = arg(False, "Use the CPU even if there is a GPU.")
    fsdp: Sharding = arg("none", "Shard weights, gradients and optimizer state across processes (FSDP2).")

    logging_steps: int = arg(20, "Steps between logs of the loss.", COUNT)
    eval_strategy: Strategy = arg("auto", "When to evaluate; by default after every epoch if there is validation data.")
    eval_steps: int | None = arg(
        None, "Steps between evaluations if eval_strategy=steps; logging_steps by default.", COUNT
    )
    eval_samples: int = arg(3, "Validation pairs whose predictions are logged at every evaluation.", NOT_NEGATIVE)
    predict_with_generate: bool = arg(False, "Generate texts in evaluations, for metrics of texts.")
    metrics: str = arg("", "Metrics of texts, separated by commas: rouge, bleu, ...; needs predict_with_generate.")
    generation_max_length: int | None = arg(
        None,
        "Maximum length of generated targets; max_target_length by default. A chosen one is the model's own.",
        COUNT,
    )
    generation_num_beams: int | None = arg(
        None, "Number of beams in evaluations; the model's own setting by default.", COUNT
    )
    save_strategy: Strategy = arg(
        "auto", "When to save a checkpoint; by default every save_steps and at every evaluation."
    )
    save_steps: int = arg(500, "Steps between checkpoints.", COUNT)
    save_total_limit: int | None = arg(2, "Number of checkpoints to keep: the best and the latest ones.", CHECKPOINTS)
    load_best_model_at_end: bool = arg(False, "Save the best model at the end instead of the last one.")
    metric_for_best_model: str = arg(
        "loss", "Metric that decides which model is the best: loss, or another metric's name."
    )
    greater_is_better: bool | None = arg(
        None, "Whether a higher metric is better; by default yes, except for losses and error rates."
    )
    early_stopping_patience: int | None = arg(None, "Stop after this many evaluations without improvement.", COUNT)
    early_stopping_threshold: float = arg(
        0.0, "Smallest change of the metric that counts as an improvement.", NOT_NEGATIVE
    )
    recover: bool = arg(
        False,
        "Go back to the last good step after a spike of the loss or a number that is not finite, and start again once "
        "with a safer recipe if the model does not read its sources.",
    )
    doctor: bool = arg(True, "Check model and first batch before the first step; stop if training is bound to fail.")
    report_to: Report = arg("auto", "Where to log besides metrics.jsonl; by default to TensorBoard if it is installed.")

    def __post_init__(self) -> None:
        """Note what is to be chosen, check the values, and set what two_optimizers stands for."""
        self._note_auto()
        wrong = [*_wrong_types(self), *out_of_range(self), *self._contradictions(), *self._endless()]
        if wrong:
            raise ConfigError(f"These training arguments cannot be used:\n{listing(wrong)}")
        if self.two_optimizers:
            self._as_liu_and_lapata()

    @classmethod
    def chosen(cls, **given: Any) -> Self:
        """Return arguments that leave all that is not given here to the run, as `conjoin train` does.

        The trainer chooses when it knows model, data and machine; `trainer.reasons` says why.

        Example:
            >>> TrainingArguments.chosen(output_dir="run", max_minutes=30).auto.split(",")[0]
            'max_source_length'
        """
        return cls(**given, auto=",".join(left_open(given, CHOOSABLE)))

    def _note_auto(self) -> None:
        """Replace every "auto" by the field's default, and note the field's name."""
        defaults = {each.name: each.default for each in fields(self)}
        named = [name for name in CHOOSABLE if getattr(self, name) == AUTO]
        for name in named:
            setattr(self, name, defaults[name])
        if named or self.to_choose:
            self.auto = ",".join(dict.fromkeys([*self.to_choose, *named]))

    @property
    def to_choose(self) -> list[str]:
        """Names of the settings that are still to be chosen."""
        names = cast("object", self.auto)  # its type is checked later
        if not isinstance(names, str) or names == "none":
            return []
        return [name.strip().replace("-", "_") for name in names.split(",") if name.strip()]

    def _endless(self) -> list[str]:
        """Say what does not go with a budget of time or tokens, and which names are not to be chosen."""
        wrong = [
            f"auto: {name} is not a setting that a run can choose."
            for name in self.to_choose
            if name not in (*CHOOSABLE, *JOIN_CHOICES)
        ]
        budgets = [name for name in ("max_steps", "max_minutes", "max_tokens") if getattr(self, name) not in (None, -1)]
        if len(budgets) > 1:
            wrong.append(f"{' and '.join(budgets)} are given; expected one of them, which says when the run ends.")
        if not self.has_budget:
            return wrong
        warmups = ("warmup_steps", *(f"{group}_warmup_steps" for group in GROUPS))
        wrong += [
            f"{name} = {getattr(self, name)} with {budgets[-1]}; expected a part of the budget, such as 0.05."
            for name in warmups
            if (getattr(self, name) or 0) >= 1
        ]
        if self.lr_scheduler_type in ("noam", "inverse_sqrt") or self.two_optimizers:
            wrong.append(f"{budgets[-1]} with a schedule that counts steps; expected linear, cosine or constant.")
        return wrong

    @property
    def has_budget(self) -> bool:
        """True if minutes or tokens, not steps, end the run."""
        return self.max_minutes is not None or self.max_tokens is not None

    def _contradictions(self) -> list[str]:
        wrong: list[str] = []
        if self.bf16 and self.fp16:
            wrong.append("bf16 and fp16 are both asked for; expected one of them.")
        if self.fsdp != "none" and (self.fp16 or self.fresh_first):
            other = "fp16; use bf16" if self.fp16 else "fresh_first; use neither or DDP (fsdp = none)"
            wrong.append(f"fsdp = {self.fsdp!r} does not go with {other}.")
        if self.average_checkpoints is not None:
            others = {"ema_decay": self.ema_decay, "lora": self.lora, "fsdp": self.fsdp != "none" or None}
            wrong += [
                f"average_checkpoints = {self.average_checkpoints} does not go with {name}."
                for name, value in others.items()
                if value is not None
            ]
        if self.packing and self.tokens_per_batch is None and "tokens_per_batch" not in self.to_choose:
            wrong.append("packing = True without tokens_per_batch; packed rows are filled up to a number of tokens.")
        if self.metrics and not self.predict_with_generate:
            wrong.append(
                f"metrics = {shown(self.metrics)} without predict_with_generate; there are no texts to compare."
            )
        if self.data_cache_dir is not None and not self.data_cache:
            wrong.append(
                f"data_cache_dir = {shown(self.data_cache_dir)} with data_cache = False; nothing is kept there."
            )
        if self.teacher is None:
            wrong += [
                f"{name} = {getattr(self, name)} without teacher; it has no effect."
                for name in ("teacher_alpha", "teacher_temperature")
                if getattr(self, name) != getattr(type(self), name)
            ]
        if self.lora is None:
            wrong += [
                f"{name} = {getattr(self, name)} without lora; it has no effect."
                for name in ("lora_alpha", "lora_dropout", "dora", "lora_targets", "lora_merge")
                if getattr(self, name) != getattr(type(self), name)
            ]
        elif self.fsdp != "none":
            wrong.append(f"fsdp = {self.fsdp!r} does not go with lora; adapters need little memory without it.")
        if self.load_best_model_at_end and self.save_strategy == "no":
            wrong.append('load_best_model_at_end = True with save_strategy = "no"; the best model would not be kept.')
        return wrong

    def _as_liu_and_lapata(self) -> None:
        """Set the values of Liu & Lapata 2019 (arXiv:1908.08345) and its code, unless the user sets them."""
        values = {
            "encoder_learning_rate": 0.002,
            "encoder_warmup_steps": 20000,
            "decoder_learning_rate": 0.2,
            "decoder_warmup_steps": 10000,
        }
        for name, value in values.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.lr_scheduler_type = "noam"
        self.adam_beta1, self.adam_beta2 = 0.9, 0.999

    def of_group(self, name: Literal["learning_rate", "warmup_steps"], group: str) -> float:
        """Return the value for one part of the model, or its fallback."""
        order = [group] if group != "cross_attention" else [group, "decoder"]
        own = (getattr(self, f"{part}_{name}") for part in order)
        return next((value for value in own if value is not None), getattr(self, name))

    @property
    def better_when_greater(self) -> bool:
        """True if a higher metric_for_best_model is better."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not self.metric_for_best_model.endswith(("loss", "perplexity", "wer", "cer", "ter"))

    def to_dict(self) -> dict[str, Any]:
        """Return every value by its name."""
        return asdict(self)

    def copy(self, **changes: Any) -> Self:
        """Return the arguments with some of them changed."""
        return replace(self, **changes)


def _wrong_types(arguments: Any) -> list[str]:
    kinds = get_type_hints(cast("type[Any]", type(arguments)))
    wrong: list[str] = []
    for each in fields(arguments):
        value, kind = getattr(arguments, each.name), kinds[each.name]
        if not fits(value, kind):
            wrong.append(f"{each.name} = {shown(value)}; expected {expectation(kind)}.")
    return wrong


def out_of_range(arguments: Any) -> list[str]:
    """Describe every number that is out of its field's range; values that are no numbers are checked elsewhere."""
    wrong: list[str] = []
    for each in fields(arguments):
        value, expected = getattr(arguments, each.name), each.metadata.get("range")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if expected is None or not is_number:
            continue
        if isinstance(value, int) and abs(value) > limits.STEPS:
            wrong.append(f"{each.name} = {shown(value)}; expected {expected.description}, and at most {limits.STEPS}.")
        elif not expected.holds(value):
            wrong.append(f"{each.name} = {value}; expected {expected.description}.")
    return wrong


def fits(value: Any, kind: Any) -> bool:
    """True if a value has the annotated type; integers count as floats, booleans not as numbers."""
    if get_origin(kind) is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(each, get_args(kind)[0]) for each in cast("list[Any]", value))
    if args := get_args(kind):
        return any(fits(value, each) for each in args)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def expectation(kind: Any) -> str:
    """Describe an annotated type in an error."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is list:
        return f"a list of {expectation(get_args(kind)[0])}s"
    if args := get_args(kind):
        return " or ".join(expectation(each) for each in args)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(kind, str(kind))


def help_of(each: "Field[Any]") -> str:
    """Return the help text of a field's flag."""
    return each.metadata["help"]
