"""MBR decoding: utilities are those of the metrics' libraries, and the choice is what a plain count of risks gives."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from command_line import folder_fixture, run_fixture  # noqa: F401  (fixtures)
from conjoin import ConfigError, EncoderDecoderModel, GenerationError
from conjoin.bulk.spec import ModelSpec, WorkerSpec
from conjoin.evaluation import (
    MBR,
    UTILITIES,
    TextSettings,
    evaluate,
    generate_outcomes,
    generate_stream,
    utility_matrix,
)

WORDS = ["the", "cat's", "sat,", "running", "runs", "on", "a", "mat.", "é", "日本", "3.5", "(x)", "and", "ran"]
SOURCES = ["the cat sat on the mat", "a dog", "hello world"]


def draw_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(count)]
    return [*texts, "", "  ", "a", "a a a a", texts[0]]


def oracle(utility: str) -> Any:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

    def rouge(names: list[str], hypothesis: str, reference: str) -> float:
        scores = scorer.score(reference, hypothesis)
        return 100 * sum(scores[name].fmeasure for name in names) / len(names)

    match utility:
        case "chrf":
            return lambda hypothesis, reference: CHRF().sentence_score(hypothesis, [reference]).score
        case "bleu":
            bleu = BLEU(effective_order=True)
            return lambda hypothesis, reference: bleu.sentence_score(hypothesis, [reference]).score
        case "rouge":
            return lambda hypothesis, reference: rouge(["rouge1", "rouge2", "rougeL"], hypothesis, reference)
        case _:
            return lambda hypothesis, reference: rouge([utility], hypothesis, reference)


@pytest.mark.parametrize("utility", UTILITIES)
def test_utilities_of_all_pairs_are_those_of_the_libraries(utility: Any) -> None:
    texts, score = draw_texts(14, seed=3), oracle(utility)
    expected = np.array([[score(hypothesis, reference) for reference in texts] for hypothesis in texts])
    assert (expected > 0).sum() > 25  # more than texts with themselves
    np.testing.assert_allclose(utility_matrix(texts, utility), expected, rtol=1e-9, atol=1e-9)


def test_texts_of_many_ngrams_are_compared_in_blocks() -> None:
    """More shared n-grams than one block holds."""
    draw = random.Random(0)
    text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=3000))
    texts = [text, text[:1500] + "." + text[1500:], text[::-1]]
    expected = [[oracle("chrf")(hypothesis, reference) for reference in texts] for hypothesis in texts]
    np.testing.assert_allclose(utility_matrix(texts, "chrf"), expected, rtol=1e-9)


def plain_choice(candidates: list[str], utility: str) -> list[tuple[str, float]]:
    """Every candidate against every other one, equal ones included."""
    score = oracle(utility)
    risks = [
        sum(score(text, other) for place, other in enumerate(candidates) if place != own) / (len(candidates) - 1)
        for own, text in enumerate(candidates)
    ]
    return [(candidates[place], risks[place]) for place in range(len(candidates))]


@pytest.mark.parametrize("utility", ["chrf", "bleu", "rouge"])
@pytest.mark.parametrize("seed", range(3))
def test_the_choice_has_the_highest_expected_utility_over_the_others(utility: Any, seed: int) -> None:
    candidates = draw_texts(7, seed)
    candidates += [candidates[2], candidates[5], candidates[5]]
    expected = dict(plain_choice(candidates, utility))
    texts, utilities = MBR(num_candidates=len(candidates), utility=utility).choose(candidates, results=4)
    np.testing.assert_allclose(utilities, sorted(expected.values(), reverse=True)[:4])
    np.testing.assert_allclose([expected[text] for text in texts], utilities)


def test_of_equals_the_more_frequent_wins_and_then_the_first() -> None:
    assert MBR().choose(["x", "y"])[0] == ["x"]
    assert MBR().choose(["x", "y", "y", "x", "z"], results=3)[0] == ["x", "y", "z"]
    assert MBR().choose(["z", "y", "y", "x", "x"], results=3)[0] == ["y", "x", "z"]
    assert MBR().choose(["same", "same"]) == (["same"], [100.0])


def mbr_of(model: EncoderDecoderModel, mbr: MBR, **settings: Any) -> dict[int, tuple[list[str], Any]]:
    asked = TextSettings(mbr=mbr, **settings)
    made = [each for batch in generate_stream(model, enumerate(SOURCES), asked) for each in batch]
    return {each.index: (each.texts, each.scores) for each in made}


@pytest.fixture(scope="module", name="pair")
def pair_fixture(folder: Path) -> EncoderDecoderModel:
    return EncoderDecoderModel.from_pretrained(folder)


def candidates_of(model: EncoderDecoderModel, seed: int = 0, **generation: Any) -> dict[int, list[str]]:
    settings = TextSettings(generation=generation, seed=seed)
    return {e.index: e.texts for batch in generate_stream(model, enumerate(SOURCES), settings) for e in batch}


def test_samples_are_those_of_generate_and_do_not_depend_on_batches(pair: EncoderDecoderModel) -> None:
    mbr = MBR(num_candidates=6, utility="rouge")
    generation = {"temperature": 1.3, "max_new_tokens": 5}
    drawn = candidates_of(pair, 7, **generation, do_sample=True, num_return_sequences=6)
    expected = {index: mbr.choose(texts, 2) for index, texts in drawn.items()}
    for batch_size in (1, 7, 64):
        made = mbr_of(
            pair,
            mbr,
            seed=7,
            scores=True,
            batch_size=batch_size,
            generation={**generation, "num_return_sequences": 2},
        )
        assert made == expected
    assert len({text for texts in drawn.values() for text in texts}) > 6
    assert mbr_of(pair, mbr, seed=8, generation=generation) != mbr_of(pair, mbr, seed=7, generation=generation)


def test_without_sampling_settings_rare_tokens_are_left_out(pair: EncoderDecoderModel) -> None:
    drawn = candidates_of(pair, do_sample=True, num_return_sequences=5, epsilon_cutoff=0.02, top_k=0)
    mbr = MBR(num_candidates=5)
    assert mbr_of(pair, mbr) == {index: (mbr.choose(texts)[0], None) for index, texts in drawn.items()}


@pytest.mark.parametrize("generation", [{}, {"num_beams": 6}, {"num_beams": 4, "num_beam_groups": 2}])
def test_beams_give_candidates_too(pair: EncoderDecoderModel, generation: dict[str, Any]) -> None:
    if "num_beam_groups" in generation:
        generation = {**generation, "diversity_penalty": 0.5}
    drawn = candidates_of(pair, **{"num_beams": 4, **generation}, num_return_sequences=4)
    mbr = MBR(num_candidates=4, candidates="beam")
    made = mbr_of(pair, mbr, generation=generation)
    assert made == {index: (mbr.choose(texts)[0], None) for index, texts in drawn.items()}


@pytest.mark.parametrize(
    ("mbr", "generation", "text"),
    [
        ({"num_candidates": 8}, {"num_beams": 4}, "mbr samples its candidates, but 4 beams was asked for"),
        ({"num_candidates": 8}, {"do_sample": False}, "but do_sample is False was asked for"),
        ({"num_candidates": 8, "candidates": "beam"}, {"num_beams": 4}, "4 beams cannot give 8 candidates"),
        ({"num_candidates": 8}, {"num_return_sequences": 9}, "num_return_sequences = 9, but mbr chooses among 8"),
    ],
)
def test_settings_that_contradict_are_refused(mbr: Any, generation: dict[str, Any], text: str) -> None:
    with pytest.raises(GenerationError, match=text):
        TextSettings(mbr=MBR(**mbr), generation=generation)


@pytest.mark.parametrize(
    ("mbr", "text"),
    [
        ({"num_candidates": 1}, "mbr with 1 candidates; expected 2 to"),
        ({"utility": "meteor"}, "utility = 'meteor'; expected one of: chrf, bleu"),
        ({"candidates": "beams"}, "candidates = 'beams'; expected one of: sample, beam"),
    ],
)
def test_settings_that_are_none_are_refused(mbr: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        MBR(**mbr)


def test_empty_sources_have_empty_results_and_failures_stay(pair: EncoderDecoderModel) -> None:
    settings = TextSettings(mbr=MBR(num_candidates=3), scores=True, generation={"num_return_sequences": 2})
    made = [each for batch in generate_outcomes(pair, [(0, ""), (1, "a dog")], settings) for each in batch]
    by_index: dict[int, Any] = {each.index: each for each in made}
    assert by_index[0].texts == ["", ""] and by_index[0].scores is None
    assert len(by_index[1].scores) == len(by_index[1].texts) >= 1


def test_a_worker_gets_the_same_settings() -> None:
    spec = WorkerSpec(model=ModelSpec(name="m"), settings=TextSettings(mbr=MBR(utility="bleu")))
    assert WorkerSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_evaluations_score_the_choice(pair: EncoderDecoderModel) -> None:
    settings = TextSettings(mbr=MBR(num_candidates=4), seed=3)
    result = evaluate(pair, SOURCES, ["a cat", "a dog", "hello"], metrics="chrf", settings=settings)
    made = mbr_of(pair, MBR(num_candidates=4), seed=3)
    assert list(result.predictions) == [made[index][0][0] for index in range(3)]


def test_the_command_line_does_the_same(run: Any, folder: Path, pair: EncoderDecoderModel, tmp_path: Path) -> None:
    flags = ("--mbr", "5", "--utility", "rouge", "--seed", "4")
    told = run("generate", folder, *SOURCES, *flags, "--scores", "--json", "--top-k", "9")
    assert told.code == 0, told.err
    made = mbr_of(pair, MBR(num_candidates=5, utility="rouge"), seed=4, scores=True, generation={"top_k": 9})
    rows = [json.loads(line) for line in told.lines]
    assert [row["prediction"] for row in rows] == [made[index][0][0] for index in range(3)]
    assert [row["score"] for row in rows] == [round(made[index][1][0], 6) for index in range(3)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"source": source, "target": "a cat"}) + "\n" for source in SOURCES))
    told = run("evaluate", folder, data, *flags, "--set", "top_k=9", "--predictions", tmp_path / "p.jsonl")
    assert told.code == 0, told.err
    predictions = [json.loads(line)["prediction"] for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert predictions == [made[index][0][0] for index in range(3)]


def test_flags_of_mbr_need_it(run: Any, folder: Path) -> None:
    told = run("generate", folder, "a dog", "--utility", "bleu")
    assert told.code == 2 and "only has an effect with --mbr N" in told.err
