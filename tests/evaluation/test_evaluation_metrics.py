"""Scores are those of rouge-score and sacrebleu; intervals and tests say how sure they are; order changes nothing."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator
from sacrebleu import corpus_bleu, corpus_chrf, corpus_ter
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from conjoin import ConfigError, ConjoinWarning
from conjoin.evaluation import compare, estimate, measure_texts, metric_names, score
from conjoin.evaluation.metrics import Measure, mean_measure, token_measures
from conjoin.evaluation.resampling import Method

METHODS: tuple[Method, ...] = ("randomisation", "bootstrap")
WORDS = "the cat dog sat on a mat and then it ran to its bowl of milk by the old door".split()  # noqa: SIM905


def corpus(pairs: int, keep: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Predictions that keep a share of their reference's words."""
    dice = random.Random(seed)
    references = [" ".join(dice.choices(WORDS, k=dice.randint(3, 15))) for _ in range(pairs)]
    dice = random.Random(seed + 1 + int(1000 * keep))
    spoil = [[w if dice.random() < keep else dice.choice(WORDS) for w in r.split()] for r in references]
    return [" ".join(words) for words in spoil], references


def test_scores_are_those_of_sacrebleu_and_rouge_score() -> None:
    predictions, references = corpus(60, 0.7)
    found = score("bleu,chrf,chrf++,ter,rouge,exact_match", predictions, references)
    assert found["bleu"] == pytest.approx(corpus_bleu(predictions, [references]).score)
    assert found["chrf"] == pytest.approx(corpus_chrf(predictions, [references]).score)
    assert found["chrf++"] == pytest.approx(corpus_chrf(predictions, [references], word_order=2).score)
    assert found["ter"] == pytest.approx(corpus_ter(predictions, [references]).score)
    total = BootstrapAggregator()
    for prediction, reference in zip(predictions, references, strict=True):
        total.add_scores(RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(reference, prediction))
    means = total.aggregate()
    assert found["rouge1"] == pytest.approx(100 * means["rouge1"].mid.fmeasure, abs=0.5)  # theirs is bootstrapped
    assert found["rougeL"] == pytest.approx(100 * means["rougeL"].mid.fmeasure, abs=0.5)
    same = sum(p == r for p, r in zip(predictions, references, strict=True))
    assert found["exact_match"] == pytest.approx(100 * same / 60)


def test_a_perfect_corpus_scores_100_and_an_empty_prediction_does_no_harm() -> None:
    texts = corpus(8, 1.0)[1]
    assert all(
        value == pytest.approx(100) for name, value in score("bleu,chrf,exact_match,rouge1", texts, texts).items()
    )
    assert score("bleu,chrf,rouge,ter", ["", "a"], ["the cat sat", "a"])["rouge1"] == pytest.approx(50)


def test_loss_and_token_accuracy_weigh_every_token_alike() -> None:
    loss, accuracy = token_measures(np.array([2.0, 6.0]), np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    assert loss.value == pytest.approx(8 / 4)
    assert accuracy.value == pytest.approx(75)
    assert accuracy.high_is_good and not loss.high_is_good


def test_names_stand_for_groups_and_unknown_ones_are_told_together() -> None:
    assert metric_names("rouge, bleu,rouge1") == ["rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"]
    with pytest.raises(ConfigError, match="No metric is called 'blue', 'wer'") as error:
        metric_names(["blue", "bleu", "wer"])
    assert "chrf" in str(error.value)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"])])
def test_corpora_of_different_sizes_or_none_are_refused(predictions: list[str], references: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{len(predictions)} predictions for {len(references)} references"):
        score("exact_match", predictions, references)


def test_rouge_on_letters_that_it_drops_warns() -> None:
    with pytest.warns(ConjoinWarning, match="chrf counts every letter"):
        score("rouge1", ["привет мир"], ["привет мир"])


@given(st.permutations(range(12)), st.sampled_from(["bleu", "chrf", "rouge2", "ter", "exact_match"]))
def test_the_order_of_pairs_changes_nothing(order: list[int], name: str) -> None:
    predictions, references = corpus(12, 0.6)
    (plain,) = measure_texts(name, predictions, references)
    (mixed,) = measure_texts(name, [predictions[i] for i in order], [references[i] for i in order])
    assert mixed.value == pytest.approx(plain.value)


def test_an_interval_holds_the_score_and_narrows_with_more_pairs() -> None:
    few, many = (estimate(measure_texts("chrf", *corpus(n, 0.7))[0]) for n in (20, 500))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_an_interval_is_the_normal_one_where_that_is_known() -> None:
    values = np.random.default_rng(0).random(400)
    found = estimate(mean_measure("exact_match", values), draws=4000)
    half = 196 * values.std() / 20
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("keep", [0.72, 0.78])
def test_randomisation_finds_what_sacrebleu_finds_and_the_bootstrap_agrees(keep: float) -> None:
    first, references = corpus(80, 0.7)
    second, _ = corpus(80, keep)
    measures = [measure_texts("bleu", texts, references)[0] for texts in (first, second)]
    swapped, drawn = (compare(*measures, method=method) for method in METHODS)
    metrics = {"BLEU": BLEU(references=[references])}
    theirs = PairedTest([("a", first), ("b", second)], metrics, None, "ar", 1000)()[1]["BLEU"][1].p_value  # pyright: ignore
    assert swapped.p_value == pytest.approx(theirs, abs=0.05)
    assert drawn.p_value == pytest.approx(swapped.p_value, abs=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_equally_good_models_differ_by_chance_as_often_as_p_says(method: Method) -> None:
    dice = np.random.default_rng(0)
    found: list[float] = []
    for _ in range(200):
        one, other = (mean_measure("exact_match", dice.integers(0, 2, 60).astype(float)) for _ in range(2))
        found.append(compare(one, other, method=method, draws=200).p_value)
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.10
    assert 0.35 <= np.mean(np.array(found) < 0.5) <= 0.6


@pytest.mark.parametrize("method", METHODS)
def test_equal_models_do_not_differ_and_better_ones_win(method: Method) -> None:
    worse, references = corpus(150, 0.3)
    better, _ = corpus(150, 0.9)
    for name, winner in (("bleu", "second"), ("ter", "second"), ("exact_match", "second")):
        low, high = (measure_texts(name, texts, references)[0] for texts in (worse, better))
        assert compare(low, high, method=method).better == winner
        assert compare(high, low, method=method).better == "first"
        none = compare(low, low, method=method)
        assert (none.p_value, none.better) == (1.0, None)


@pytest.mark.parametrize("method", METHODS)
def test_a_few_pairs_prove_nothing(method: Method) -> None:
    """Draws of pairs that are all alike do not vary; k coins fall on one side with a probability of 2 ** (1 - k)."""
    for count in (1, 2, 3, 5):
        wrong, right = (mean_measure("exact_match", np.full(count, value)) for value in (0.0, 1.0))
        found = compare(wrong, right, method=method)
        assert found.p_value >= 2.0 ** (1 - count) and found.better is None
    wrong, right = (mean_measure("exact_match", np.full(12, value)) for value in (0.0, 1.0))
    assert compare(wrong, right, method=method).better == "second"


def test_different_metrics_or_pairs_are_not_compared() -> None:
    one = Measure("bleu", np.ones((3, 2)), float)
    with pytest.raises(ConfigError, match="bleu of 3 pairs cannot be compared with bleu of 4"):
        compare(one, Measure("bleu", np.ones((4, 2)), float))
