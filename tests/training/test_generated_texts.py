"""Texts that a model generated: learnt as targets of sources, or ranked by how good they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import ConfigError, DataError, EncoderDecoderModel, Seq2SeqTrainer
from conjoin.errors import ConjoinWarning
from conjoin.evaluation import utility_matrix
from conjoin.texts.pairs import Columns, Pairs
from conjoin.texts.predictions import candidate_pairs, joined_pairs, pseudo_pairs
from conjoin.training.data.candidates import RankedExamples
from conjoin.training.settings.recipe import Recipe, Sources
from conjoin.training.torch.choose_objective import build_objective
from conjoin.training.torch.collate import Collator
from conjoin.training.torch.objectives import Divisors
from conjoin.training.torch.ranking import RankingObjective
from training_toys import WORDS, arguments, toy_model, toy_rows, weights, write_rows

TEXTS = Columns()


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_generated_text_is_a_target_and_those_of_a_source_share_its_weight(tmp_path: Path) -> None:
    rows = [
        {"source": "a", "target": "unread", "prediction": "x", "score": -1.0},
        {"source": "b", "predictions": ["y", " ", "z"]},
        {"source": "c", "prediction": "v", "weight": 2.0},
    ]
    pairs = pseudo_pairs(write(tmp_path / "p.jsonl", rows), Columns(prefix="to: "), weight=0.5)
    assert pairs.sources == ["to: a", "to: b", "to: b", "to: c"]
    assert pairs.targets == ["x", "y", "z", "v"] and list(pairs.lines) == [1, 2, 2, 3]
    assert pairs.weights is not None and pairs.weights.tolist() == [0.5, 0.25, 0.25, 1.0]


def test_tables_and_nested_columns_are_read_too(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "p.csv").write_text('source,predictions,score\na,"[""x"", ""y""]",\nb,"[]",\n')
    with pytest.warns(ConjoinWarning, match="1 of 2 rows are left out"):
        assert pseudo_pairs(tmp_path / "p.csv", TEXTS).targets == ["x", "y"]
    rows = [{"text": {"en": "a"}, "predictions": ["x"]}, {"text": {"en": "b"}, "predictions": ["y", "z"]}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    pairs = pseudo_pairs(tmp_path / "p.parquet", Columns(source="text.en"))
    assert (pairs.sources, pairs.targets) == (["a", "b", "b"], ["x", "y", "z"])
    assert pairs.weights is not None and pairs.weights.tolist() == [1.0, 0.5, 0.5]


def test_sources_that_failed_are_left_out_with_a_warning(tmp_path: Path) -> None:
    rows = [{"source": "a", "prediction": "x"}, {"source": "b", "error": "too long"}, {"source": "", "prediction": "y"}]
    with pytest.warns(ConjoinWarning, match="2 of 3 rows are left out"):
        assert pseudo_pairs(write(tmp_path / "p.jsonl", rows), TEXTS).targets == ["x"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"source": "a"}, "has neither prediction nor predictions; it has 'source'"),
        ({"prediction": "a"}, "has no column 'source'"),
        ({"source": "a", "predictions": "x"}, "predictions is no list of texts"),
        ({"source": "a", "predictions": [1]}, "predictions is no list of texts"),
        ({"source": "a", "prediction": 4}, "prediction is a int, expected text"),
        ({"source": 3, "prediction": "a"}, "source is a int, expected text"),
        ({"source": "a", "prediction": "x", "weight": -1}, "weight is -1; expected a number of 0 or more"),
        ({"source": "a", "prediction": "\ud800"}, "line 1"),
        (["a"], "is a list, expected an object"),
    ],
)
def test_rows_that_hold_none_are_named(row: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        pseudo_pairs(write(tmp_path / "p.jsonl", [row]), TEXTS)


def test_a_file_without_generated_texts_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"source": "a", "prediction": ""}])
    with pytest.raises(DataError, match="has no source with generated texts"):
        pseudo_pairs(path, TEXTS)
    path = write(tmp_path / "p.jsonl", [{"source": "a", "target": "b", "predictions": ["x", "x"]}])
    with pytest.raises(DataError, match="no source has two different texts"):
        candidate_pairs(path, TEXTS)


def test_real_and_generated_pairs_are_one_set_with_their_weights() -> None:
    real = Pairs("t", ["a", "b"], ["x", "y"], [1, 3])
    generated = Pairs("p", ["a"], ["z"], [2], np.array([0.5]))
    both = joined_pairs(real, generated)
    assert (both.sources, both.targets, both.lines) == (["a", "b", "a"], ["x", "y", "z"], [1, 3, 5])
    assert both.weights is not None and both.weights.tolist() == [1.0, 1.0, 0.5]
    assert joined_pairs(real, real).weights is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "Neither train nor dataset is given"),
        ({"train": "a", "dataset": "b"}, "Both train and dataset are given"),
        ({"train": "a", "calibrate": "b"}, "calibrate and train are given"),
        ({"train": "a", "pseudo_weight": 0.5}, "pseudo_weight = 0.5 without pseudo_labels"),
        ({"pseudo_labels": "a", "pseudo_weight": 0.5}, "pseudo_weight = 0.5 without other training data"),
        ({"train": "a", "pseudo_labels": "b", "pseudo_weight": 0.0}, "pseudo_weight = 0.0; expected a number above 0"),
        ({"calibrate": "a", "framework": "jax"}, "framework = jax cannot calibrate"),
    ],
)
def test_data_that_do_not_go_together_are_refused(settings: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Sources(model="m", **settings).require()


def candidate_rows(count: int) -> list[dict[str, Any]]:
    """Pairs with candidates of several qualities, equal ones among them."""
    rows: list[dict[str, Any]] = [dict(row) for row in toy_rows(count)]
    for number, row in enumerate(rows):
        words = row["target"].split()
        worse = " ".join([*words[:-1], WORDS[number % 20]])
        row["predictions"] = [worse, row["target"], worse, " ".join(reversed(words)), WORDS[3], WORDS[3]]
    rows[1]["predictions"] = [WORDS[2]]
    return rows


def calibrating(folder: Path, count: int = 6, **changes: Any) -> Seq2SeqTrainer:
    pairs = candidate_pairs(write(folder / "candidates.jsonl", candidate_rows(count)), TEXTS)
    args = arguments(folder / "run", **changes)
    return Seq2SeqTrainer(toy_model(folder), args=args, train_dataset=pairs)


@pytest.mark.parametrize("utility", ["rouge", "chrf"])
def test_candidates_are_different_and_the_best_come_first(utility: Any, tmp_path: Path) -> None:
    trainer = calibrating(tmp_path, ranking_utility=utility)
    examples = trainer.train_examples
    assert isinstance(examples, RankedExamples)
    for index, row in enumerate(candidate_rows(6)):
        start, end = examples.edges[index : index + 2].tolist()
        texts = trainer.tokenizer.batch_decode(
            [examples.candidates[place].tolist() for place in range(start, end)], skip_special_tokens=True
        )
        assert len(set(texts)) == len(texts) and set(texts) == set(row["predictions"])
        values = [utility_matrix([text, row["target"]], utility)[0, 1] for text in texts]
        assert values == sorted(values, reverse=True)
        np.testing.assert_allclose(examples.utilities[start:end], values)


def test_batches_and_resumed_runs_know_of_candidates(tmp_path: Path) -> None:
    examples, other = calibrating(tmp_path).train_examples, calibrating(tmp_path, ranking_utility="bleu").train_examples
    assert isinstance(examples, RankedExamples) and other is not None
    sizes = [
        sum(len(examples.candidates[place]) for place in range(*examples.edges[index : index + 2].tolist()))
        for index in range(6)
    ]
    assert examples.lengths[:, 1].tolist() == [len(examples.labels[i]) + sizes[i] for i in range(6)]
    plain = Seq2SeqTrainer(toy_model(tmp_path), args=arguments(tmp_path / "r"), train_dataset=toy_rows(6))
    assert plain.train_examples is not None
    assert len({each.fingerprint() for each in (examples, other, plain.train_examples)}) >= 2
    assert examples.fingerprint() != plain.train_examples.fingerprint()


def objective_of(trainer: Seq2SeqTrainer) -> RankingObjective:
    assert trainer.train_examples is not None
    objective = build_objective(trainer.args, trainer.model, trainer.tokenizer, trainer.train_examples)
    assert isinstance(objective, RankingObjective)
    return objective


def plain_loss(trainer: Seq2SeqTrainer, objective: RankingObjective, batch: list[int]) -> Tensor:
    """The loss of pairs whose source is encoded anew for each candidate, one at a time, without padding."""
    model, examples = trainer.model, trainer.train_examples
    assert isinstance(examples, RankedExamples)
    likelihood, ranking = torch.zeros(()), torch.zeros(())
    for index in batch:
        source = torch.from_numpy(examples.sources[index]).long()[None]
        labels = torch.from_numpy(examples.labels[index]).long()[None]
        likelihood = likelihood + model(input_ids=source, labels=labels, num_items_in_batch=1).loss
        scores: list[Tensor] = []
        places = range(*examples.edges[index : index + 2].tolist())
        for place in places:
            own = torch.from_numpy(examples.candidates[place]).long()[None]
            loss = model(input_ids=source, labels=own, num_items_in_batch=1).loss
            scores.append(-loss / own.shape[1] ** objective.length_penalty)
        values = examples.utilities[places.start : places.stop]
        for apart in range(1, len(scores)):
            losses = [
                torch.relu(scores[i + apart] - scores[i] + apart * objective.margin)
                for i in range(len(scores) - apart)
                if values[i + apart] < values[i]
            ]
            ranking = ranking + sum(losses, torch.zeros(())) / (len(scores) - apart)
    counted = sum(len(examples.labels[index]) for index in batch)
    return objective.likelihood * likelihood / counted + objective.weight * ranking / len(batch)


@pytest.mark.parametrize("changes", [{}, {"ranking_margin": 0.001, "ranking_length_penalty": 2.0}])
def test_loss_and_gradients_are_those_of_candidates_one_by_one(changes: dict[str, Any], tmp_path: Path) -> None:
    trainer = calibrating(tmp_path, **changes)
    objective, examples = objective_of(trainer), trainer.train_examples
    assert examples is not None
    for parameter in trainer.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batch = [0, 1, 2, 5]
    counted = float(examples.counted(batch))
    read: list[int] = []
    hook = trainer.model.encoder.register_forward_hook(lambda module, given, made: read.append(len(made[0])))
    inputs = objective.inputs(Collator(trainer.model, examples, 0), [[index] for index in batch])
    loss = objective.loss(trainer.model, inputs, Divisors(labels=counted, pairs=len(batch)))
    assert read == [4]
    hook.remove()
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    expected = plain_loss(trainer, objective, batch)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert any(name.startswith("encoder.") for name in found)
    for name, parameter in trainer.model.named_parameters():
        if name in found:
            assert parameter.grad is not None
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_calibration_ranks_candidates_and_resumes(tmp_path: Path) -> None:
    def agreement(trainer: Seq2SeqTrainer) -> float:
        """Share of the pairs of candidates in which the better one is likelier."""
        examples = trainer.train_examples
        assert isinstance(examples, RankedExamples)
        right: list[bool] = []
        for index in range(len(examples)):
            places = range(*examples.edges[index : index + 2].tolist())
            source = torch.from_numpy(examples.sources[index]).long()[None]
            with torch.no_grad():
                losses = [
                    trainer.model.eval()(input_ids=source, labels=torch.from_numpy(examples.candidates[p]).long()[None])
                    for p in places
                ]
            scores = [-each.loss.item() for each in losses]
            values = examples.utilities[places.start : places.stop]
            right += [
                scores[i] > scores[j] for i in range(len(scores)) for j in range(len(scores)) if values[i] > values[j]
            ]
        return sum(right) / len(right)

    settings = {"lr_scheduler_type": "constant", "save_steps": 10, "per_device_train_batch_size": 4}
    whole = calibrating(tmp_path, 12, max_steps=30, **settings, output_dir=str(tmp_path / "whole"))
    before = agreement(whole)
    whole.train()
    assert before < 0.8
    assert agreement(whole) > 0.97
    calibrating(tmp_path, 12, max_steps=10, **settings).train()
    resumed = calibrating(tmp_path, 12, max_steps=30, **settings, resume_from_checkpoint="latest")
    resumed.train()
    pairs = zip(weights(whole.model).values(), weights(resumed.model).values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"r_drop": 1.0}, "Candidates are ranked, but r_drop is asked for too"),
        ({"packing": True, "tokens_per_batch": 400}, "but packing is asked for too"),
    ],
)
def test_what_does_not_go_with_calibration_is_refused(changes: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        calibrating(tmp_path, **changes).train()


def test_settings_of_calibration_need_candidates(tmp_path: Path) -> None:
    args = arguments(tmp_path / "run", ranking_margin=0.5)
    with pytest.raises(ConfigError, match="ranking_margin without candidates to rank; it has no effect"):
        Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=toy_rows(4)).train()


def test_the_whole_flow_runs_on_the_command_line(run: Any, tmp_path: Path) -> None:
    toy_model(tmp_path / "tokenizers", seed=3).save_pretrained(tmp_path / "teacher")
    toy_model(tmp_path / "tokenizers", seed=4).save_pretrained(tmp_path / "student")
    data = write_rows(tmp_path / "train.jsonl", toy_rows(12))
    short = ("--max-new-tokens", "6")
    pseudo = tmp_path / "pseudo.jsonl"
    told = run("generate", tmp_path / "teacher", "-i", data, "-o", pseudo, "--num-beams", "2", *short)
    assert told.code == 0, told.err
    quiet = ("--max-steps", "3", "--use-cpu", "--no-doctor", "--report-to", "none", "--learning-rate", "1e-2")
    told = run(
        *("train", "--model", tmp_path / "student", "--train", data, "--pseudo-labels", pseudo),
        *("--pseudo-weight", "0.5", "--out", tmp_path / "distilled", *quiet),
    )
    assert told.code == 0, told.err
    told = run(
        *("generate", tmp_path / "distilled", "-i", data, "-o", tmp_path / "candidates.jsonl", *short),
        *("--num-return-sequences", "4", "--num-beams", "4"),
    )
    assert told.code == 0, told.err
    told = run(
        *("train", "--model", tmp_path / "distilled", "--calibrate", tmp_path / "candidates.jsonl"),
        *("--out", tmp_path / "calibrated", "--tokens-per-batch", "200", *quiet),
    )
    assert told.code == 0, told.err
    before, after = (EncoderDecoderModel.from_pretrained(tmp_path / name) for name in ("distilled", "calibrated"))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_a_recipe_replaces_one_kind_of_data_by_another(tmp_path: Path) -> None:
    from conjoin.training.settings.recipe import over_earlier_recipe

    earlier = Recipe.of({"model": "m", "train": "t.jsonl", "pseudo_labels": "p.jsonl", "out": str(tmp_path)})
    (tmp_path / "recipe.yaml").write_text(earlier.to_yaml())
    settings = over_earlier_recipe(str(tmp_path), {"calibrate": "c.jsonl"})
    assert Recipe.of(settings).sources.calibrate == "c.jsonl"
    Recipe.of(settings).sources.require()
