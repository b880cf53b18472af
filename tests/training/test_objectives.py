"""What steps minimise beside cross-entropy is what plain arithmetic says, and its gradients are; such runs resume."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import ConfigError, EncoderDecoderConfig, EncoderDecoderModel, Seq2SeqTrainer, TrainingArguments
from conjoin.tokenizer import AutoTokenizer, TokenizerPair
from conjoin.training.torch.choose_objective import build_objective
from conjoin.training.torch.collate import Collator
from conjoin.training.torch.objectives import Distillation, Divisors, TokenObjective
from conjoin.training.torch.ranking import candidate_scores, ranking_loss
from training_toys import (
    SOURCE_WORDS,
    SPECIALS,
    TARGET_WORDS,
    arguments,
    decoder_config,
    encoder_config,
    toy_model,
    toy_rows,
    weights,
    write_rows,
    write_tokenizer,
)

LABELS = torch.tensor([[3, 1, -100], [0, 4, 2]])
WEIGHTS = torch.tensor([[0.5, 0.5, 0.5], [2.0, 2.0, 2.0]])
DIVISORS = Divisors(labels=7.0)


class Fixed(nn.Module):
    """A model whose logits are its parameters, whatever it reads."""

    def __init__(self, rows: int, vocab_size: int = 5) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.values = nn.Parameter(torch.randn(rows, 3, vocab_size))

    def forward(self, **_: Any) -> Any:
        return SimpleNamespace(logits=self.values)


class FixedTeacher:
    """A teacher whose logits are given."""

    def __init__(self, vocab_size: int = 5) -> None:
        torch.manual_seed(4)
        self.values = torch.randn(2, 3, vocab_size) * 2

    def inputs(self, batch: Any) -> dict[str, Tensor]:
        return {}

    def logits(self, inputs: Any) -> Tensor:
        return self.values


def probabilities(logits: Tensor, temperature: float = 1.0) -> list[Tensor]:
    """Probabilities of one position, by exponentials and a sum."""
    powers = [torch.exp(logit / temperature) for logit in logits.double()]
    total = sum(powers, torch.zeros(()))
    return [power / total for power in powers]


def divergence(target: list[Tensor], found: list[Tensor]) -> Tensor:
    return sum((p * torch.log(p / q) for p, q in zip(target, found, strict=True)), torch.zeros(()))


def plain_loss(logits: Tensor, teacher: Tensor | None, settings: dict[str, float], *, weighted: bool) -> Tensor:
    """The losses of `TokenObjective`, label by label, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    passes = list(logits.split(2))
    alpha, temperature = settings.get("alpha", 0.0), settings.get("temperature", 1.0)
    smoothing, r_drop = settings.get("smoothing", 0.0), settings.get("r_drop", 0.0)
    for row, place in ((row, place) for row in range(2) for place in range(3) if LABELS[row, place] != -100):
        weight = float(WEIGHTS[row, place]) if weighted else 1.0
        label = int(LABELS[row, place])
        found = [probabilities(one[row, place]) for one in passes]
        for one, each in zip(passes, found, strict=True):
            spread = sum((-torch.log(p) for p in each), torch.zeros(())) / len(each)
            loss = (1 - smoothing) * -torch.log(each[label]) + smoothing * spread
            if teacher is not None:
                mine = one[row, place, : teacher.shape[-1]]
                known = probabilities(teacher[row, place, : len(mine)], temperature)
                apart = divergence(known, probabilities(mine, temperature))
                loss = (1 - alpha) * loss + alpha * temperature**2 * apart
            total = total + weight * loss / len(passes)
        if r_drop:
            both = divergence(found[0], found[1]) + divergence(found[1], found[0])
            total = total + weight * r_drop / 2 * both / 2
    return total / DIVISORS.labels


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("settings", "teacher_size"),
    [
        ({"smoothing": 0.2}, None),
        ({"alpha": 0.3, "temperature": 2.5}, 5),
        ({"alpha": 1.0, "temperature": 0.7, "smoothing": 0.1}, 5),
        ({"alpha": 0.6, "temperature": 2.0}, 4),
        ({"alpha": 0.6, "temperature": 2.0}, 8),
        ({"r_drop": 0.7}, None),
        ({"r_drop": 5.0, "alpha": 0.4, "temperature": 3.0, "smoothing": 0.1}, 5),
    ],
)
def test_losses_and_gradients_are_those_of_plain_arithmetic(
    settings: dict[str, float], teacher_size: int | None, weighted: bool
) -> None:
    model = Fixed(4 if "r_drop" in settings else 2)
    teacher = None if teacher_size is None else FixedTeacher(teacher_size)
    distillation = teacher and Distillation(
        teacher=teacher, alpha=settings["alpha"], temperature=settings["temperature"]
    )
    objective = TokenObjective(
        smoothing=settings.get("smoothing", 0.0), distillation=distillation, r_drop=settings.get("r_drop", 0.0)
    )
    inputs = {"labels": LABELS, **({"loss_weights": WEIGHTS} if weighted else {})}
    loss = objective.loss(model, inputs, DIVISORS)
    loss.backward()
    exact = model.values.detach().double().requires_grad_()
    expected = plain_loss(exact, None if teacher is None else teacher.values, settings, weighted=weighted)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(model.values.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert exact.grad.abs().max() > 0.01


CANDIDATES = [[5, 3, 3, 1], [7, 7], [4], []]
"""Utilities of the candidates of four pairs."""


def plain_ranking(scores: list[list[Tensor]], weights: list[float], margin: float) -> Tensor:
    """Every two candidates of a source, as the paper's code averages them: by their distance in the order."""
    total = torch.zeros((), dtype=torch.float64)
    for own, utilities, weight in zip(scores, CANDIDATES, weights, strict=True):
        for apart in range(1, len(own)):
            losses = [
                torch.clamp(own[j] - own[i] + margin * apart, min=0) if utilities[j] < utilities[i] else own[0] * 0
                for i, j in zip(range(len(own)), range(apart, len(own)), strict=False)
            ]
            total = total + weight * sum(losses, torch.zeros(())) / len(losses)
    return total


@pytest.mark.parametrize("margin", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_candidates_are_ranked_as_plain_arithmetic_says(margin: float, length_penalty: float) -> None:
    torch.manual_seed(1)
    counts = [len(each) for each in CANDIDATES]
    labels = torch.tensor([[1, 2, 0, 3], [4, 1, -100, -100], [0, 3, 3, -100], [2, -100, -100, -100]])[
        torch.randint(0, 4, (sum(counts),))
    ]
    logits = torch.randn(sum(counts), 4, 5, requires_grad=True)
    weights = [0.5, 2.0, 1.0, 3.0]
    rows = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    utilities = torch.tensor([float(value) for each in CANDIDATES for value in each])
    scores = candidate_scores(logits, labels, length_penalty)
    loss = ranking_loss(scores, utilities, rows, torch.tensor(weights), margin)
    loss.backward()
    exact = logits.detach().double().requires_grad_()
    plain: list[Tensor] = []
    for candidate, own in zip(exact, labels.tolist(), strict=True):
        chances = [
            torch.log(probabilities(step)[label]) for step, label in zip(candidate, own, strict=True) if label >= 0
        ]
        plain.append(sum(chances, torch.zeros(())) / len(chances) ** length_penalty)
    starts = [sum(counts[:row]) for row in range(5)]
    expected = plain_ranking([plain[a:b] for a, b in pairwise(starts)], weights, margin)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    if margin:  # without one, candidates may stand in the right order by themselves
        assert exact.grad.abs().max() > 1e-3


def test_in_evaluation_r_drop_is_one_pass() -> None:
    model = Fixed(2).eval()
    loss = TokenObjective(r_drop=2.0).loss(model, {"labels": LABELS}, DIVISORS)
    assert loss.item() == pytest.approx(plain_loss(model.values, None, {}, weighted=False).item(), rel=1e-5)


def teacher_of(folder: Path, seed: int = 5, **changes: Any) -> EncoderDecoderModel:
    """A wider model with other source tokens, and dropout, that writes what the toy model writes."""
    torch.manual_seed(seed)
    source_words = [*SPECIALS, "more", *reversed(SOURCE_WORDS[5:])]
    encoder = encoder_config(vocab_size=len(source_words), hidden_size=24, num_attention_heads=3)
    decoder = decoder_config(hidden_size=24, hidden_dropout_prob=0.3, **changes)
    ids = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    model = EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids))
    model.tokenizer = TokenizerPair(
        *(
            AutoTokenizer.from_pretrained(write_tokenizer(folder / f"teacher-{name}", words))
            for name, words in (("source", source_words), ("target", TARGET_WORDS))
        )
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "teacher")
    return model


def distilling(folder: Path, **changes: Any) -> Seq2SeqTrainer:
    args = arguments(folder / "run", teacher=str(folder / "teacher"), **changes)
    return Seq2SeqTrainer(toy_model(folder, dropout=0.1), args=args, train_dataset=toy_rows(24))


def objective_of(trainer: Seq2SeqTrainer) -> TokenObjective:
    assert trainer.train_examples is not None
    objective = build_objective(trainer.args, trainer.model, trainer.tokenizer, trainer.train_examples)
    assert isinstance(objective, TokenObjective)
    return objective


def test_the_teacher_reads_its_own_tokens_of_the_same_texts(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path)
    trainer = distilling(tmp_path)
    distillation = objective_of(trainer).distillation
    assert distillation is not None
    batch = [[4], [7], [11]]
    rows = [toy_rows(24)[index] for (index,) in batch]
    texts = [row["source"] for row in rows], [row["target"] for row in rows]
    own = teacher.tokenizer(texts[0], text_target=texts[1], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = teacher.eval()(**own).logits
    counted = own["labels"] != -100
    found = distillation.teacher.logits(distillation.teacher.inputs(batch))
    torch.testing.assert_close(found[counted], expected[counted])
    student = trainer.tokenizer(texts[0], padding=True, return_tensors="pt")["input_ids"]
    assert student.shape == own["input_ids"].shape and not torch.equal(student, own["input_ids"])


def test_packed_rows_learn_the_same_from_a_teacher(tmp_path: Path) -> None:
    teacher_of(tmp_path)
    trainer = distilling(tmp_path, teacher_alpha=0.7)
    objective, examples = objective_of(trainer), trainer.train_examples
    assert examples is not None
    collator = Collator(trainer.model, examples, 0)
    rows = [[4, 7, 11], [1, 2]]
    divisors = Divisors(labels=float(examples.counted([4, 7, 11, 1, 2])))

    def gradients(batch: list[list[int]]) -> dict[str, Tensor]:
        trainer.model.zero_grad()
        objective.loss(trainer.model.eval(), objective.inputs(collator, batch), divisors).backward()
        return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}

    packed = {name: gradient.clone() for name, gradient in gradients(rows).items()}
    torch.testing.assert_close(gradients([[index] for row in rows for index in row]), packed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{"teacher_alpha": 0.8}, {"r_drop": 1.0}, {"teacher_alpha": 0.5, "r_drop": 0.5}])
def test_a_resumed_run_is_the_uninterrupted_one(changes: dict[str, Any], tmp_path: Path) -> None:
    teacher_of(tmp_path)
    named = {"teacher": str(tmp_path / "teacher")} if "teacher_alpha" in changes else {}

    def train(name: str, steps: int, **more: Any) -> EncoderDecoderModel:
        schedule = {"save_steps": 2, "max_steps": steps, "lr_scheduler_type": "constant"}
        args = arguments(tmp_path / name, **schedule, **named, **changes, **more)
        trainer = Seq2SeqTrainer(toy_model(tmp_path, dropout=0.1), args=args, train_dataset=toy_rows(48))
        trainer.train()
        return trainer.model

    whole = train("whole", 4)
    before = (tmp_path / "teacher" / "model.safetensors").read_bytes()
    train("parts", 2)
    resumed = train("parts", 4, resume_from_checkpoint="latest")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))
    plain = toy_model(tmp_path)
    assert {*weights(whole)} == {*weights(plain)}
    again = EncoderDecoderModel.from_pretrained(tmp_path / "parts")
    assert again.num_parameters() == plain.num_parameters()
    assert (tmp_path / "teacher" / "model.safetensors").read_bytes() == before


def test_a_student_comes_to_write_what_its_teacher_writes(tmp_path: Path) -> None:
    """The targets are noise to the teacher: only its probabilities can lead there."""
    teacher = teacher_of(tmp_path).eval()
    trainer = distilling(tmp_path, teacher_alpha=1.0, teacher_temperature=1.0, max_steps=60, learning_rate=3e-2)
    objective = objective_of(trainer)
    assert objective.distillation is not None

    def apart() -> float:
        assert trainer.train_examples is not None
        batch = [[index] for index in range(24)]
        collator = Collator(trainer.model, trainer.train_examples, 0)
        one = replace(objective, r_drop=0.0)
        counted = float(trainer.train_examples.counted(range(24)))
        with torch.no_grad():
            return one.loss(trainer.model.eval(), one.inputs(collator, batch), Divisors(labels=counted)).item()

    before = apart()
    trainer.train()
    assert apart() < 0.5 * before
    assert teacher.spec.decoder.vocab_size == len(TARGET_WORDS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"teacher_alpha": 0.7}, "teacher_alpha = 0.7 without teacher; it has no effect"),
        ({"teacher_temperature": 1.0}, "teacher_temperature = 1.0 without teacher"),
        ({"teacher": "t", "teacher_alpha": 1.1}, "teacher_alpha = 1.1; expected a number from 0 to 1"),
        ({"r_drop": -1.0}, "r_drop = -1.0; expected 0 or more"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TrainingArguments(**changes)


def test_teachers_that_do_not_fit_are_refused_before_the_folder_is_claimed(tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path)
    other = [*SPECIALS, "else", *reversed(TARGET_WORDS[6:])]
    teacher.tokenizer = TokenizerPair(
        teacher.tokenizer.source, AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "other", other))
    )
    teacher.save_pretrained(tmp_path / "teacher")
    with pytest.raises(ConfigError, match="2 tokens of its target vocabulary are not the model"):
        distilling(tmp_path).train()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_teacher_whose_targets_are_too_short_is_refused(tmp_path: Path) -> None:
    teacher_of(tmp_path, max_position_embeddings=6)
    with pytest.raises(ConfigError, match="it writes at most 6 tokens, and the longest target has"):
        distilling(tmp_path).train()


def test_pairs_of_ids_need_a_teacher_with_the_same_sources(tmp_path: Path) -> None:
    teacher_of(tmp_path)
    trainer = distilling(tmp_path)
    assert trainer.train_examples is not None
    without = replace(trainer.train_examples, texts=None)
    with pytest.raises(ConfigError, match="it reads other tokens than the model"):
        build_objective(trainer.args, trainer.model, trainer.tokenizer, without)
    toy_model(tmp_path, seed=9).save_pretrained(tmp_path / "teacher")
    assert build_objective(trainer.args, trainer.model, trainer.tokenizer, without)


def test_r_drop_without_dropout_is_refused(tmp_path: Path) -> None:
    args = arguments(tmp_path / "run", r_drop=1.0)
    with pytest.raises(ConfigError, match="the model has no dropout"):
        Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=toy_rows(8)).train()


def test_dropout_makes_two_passes_of_r_drop_differ(tmp_path: Path) -> None:
    trainer = Seq2SeqTrainer(
        toy_model(tmp_path, dropout=0.3), args=arguments(tmp_path / "run"), train_dataset=toy_rows(4)
    )
    assert trainer.train_examples is not None
    collator, divisors = Collator(trainer.model, trainer.train_examples, 0), Divisors(labels=1.0)
    trainer.model.train()
    losses: list[float] = []
    for r_drop in (1e-9, 1.0):
        torch.manual_seed(0)
        objective = TokenObjective(r_drop=r_drop)
        losses.append(objective.loss(trainer.model, objective.inputs(collator, [[0], [1]]), divisors).item())
    assert math.isfinite(losses[1]) and losses[1] > losses[0] + 1e-3


def test_pairs_of_a_file_are_encoded_for_the_teacher_too(run: Any, tmp_path: Path) -> None:
    """Texts of training files are kept on the disk only, and for a teacher with other tokens."""
    teacher_of(tmp_path)
    toy_model(tmp_path / "tokenizers").save_pretrained(tmp_path / "student")
    data = write_rows(tmp_path / "train.jsonl", toy_rows(16))
    told = run(
        *("train", "--model", tmp_path / "student", "--train", data, "--out", tmp_path / "run", "--use-cpu"),
        *("--teacher", tmp_path / "teacher", "--max-steps", "2", "--no-doctor", "--report-to", "none"),
        *("--data-cache-dir", tmp_path / "cache", "--no-recover", "--warmup-steps", "0"),
    )
    assert told.code == 0, told.err
    before, after = (EncoderDecoderModel.from_pretrained(tmp_path / name) for name in ("student", "run"))
    assert any(not torch.equal(one, other) for one, other in zip(before.parameters(), after.parameters(), strict=True))
