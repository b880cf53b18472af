"""The trainers of others, run on our model: transformers' Seq2SeqTrainer, its schedules, and peft."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from conjoin.training import SavesPretrained


def train(model: nn.Module, tokenizer: Any, rows: list[dict[str, list[int]]], folder: Path, **arguments: Any) -> Any:
    """Let transformers' Seq2SeqTrainer train a model on rows of ids; returns the trainer."""
    settings = transformers.Seq2SeqTrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        dataloader_pin_memory=False,
        **arguments,
    )
    trainer = transformers.Seq2SeqTrainer(
        model=model, args=settings, train_dataset=rows, eval_dataset=rows[:4], data_collator=collator(tokenizer)
    )
    trainer.train()
    return trainer


class SavingTrainer(SavesPretrained, transformers.Seq2SeqTrainer):
    """transformers' trainer with our mixin."""


def saving_trainer(
    model: nn.Module,
    tokenizer: Any,
    rows: list[dict[str, list[int]]],
    folder: Path,
    *,
    mixed: bool = True,
    processing_class: Any = None,
    **arguments: Any,
) -> Any:
    """A trainer of transformers, with our mixin or without, that saves and evaluates every second step."""
    settings: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    kind = SavingTrainer if mixed else transformers.Seq2SeqTrainer
    return kind(
        model=model,
        args=transformers.Seq2SeqTrainingArguments(output_dir=str(folder), **settings | arguments),
        train_dataset=rows,
        eval_dataset=rows[:4],
        data_collator=collator(tokenizer),
        processing_class=processing_class,
    )


def collator(tokenizer: Any) -> Callable[[list[Any]], dict[str, Tensor]]:
    """What transformers' DataCollatorForSeq2Seq does, with our tokenizer pair."""
    return lambda rows: dict(tokenizer.pad(rows, return_tensors="pt"))


def rates(kind: str, warmup: int, total: int, **keywords: Any) -> list[float]:
    """Factors of the learning rate at every step, as transformers has them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = transformers.get_scheduler(kind, optimizer, warmup, total, **keywords)
    found: list[float] = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def lora(model: nn.Module, targets: list[str] | str, **values: Any) -> Any:
    """The model with LoRA adapters on some of its layers, as peft makes it."""
    import peft

    return peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, **values))


def with_adapter(model: nn.Module, folder: Path) -> Any:
    """The model with an adapter that peft saved."""
    import peft

    return peft.PeftModel.from_pretrained(model, folder)
