"""Evaluation and bulk generation say what the model itself says, whatever the batches."""

import copy
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conjoin import ConfigError, EncoderDecoderModel, GenerationError
from conjoin.errors import DataError
from conjoin.evaluation import Failed, TextSettings, evaluate, generate_outcomes, generate_stream, generate_texts
from conjoin.evaluation.texts import WINDOW, source_seed
from conjoin.texts.sources import SourceFile
from conjoin.torch.generation import overlap
from conjoin.training.report.attention import record
from conjoin.training.torch.evaluating import cross_attention
from pairs import stir, with_tokenizer

SOURCES = ["the cat sat on the mat", "a dog", "hello world , again and again and again", "it ran"]
TARGETS = ["a cat sat", "the dog ran off", "hello", "they ran away together"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EncoderDecoderModel:
    """A BERT joined to a GPT-2, with their tokenizers and every parameter random."""
    folder = tmp_path_factory.mktemp("halves")
    halves = with_tokenizer(folder / "bert", "bert"), with_tokenizer(folder / "gpt2", "gpt2")
    joined = stir(EncoderDecoderModel.from_encoder_decoder_pretrained(*halves))
    joined.generation_config.max_new_tokens = 9
    return joined


def one_by_one(model: EncoderDecoderModel, text: str, **settings: Any) -> str:
    ids = torch.tensor(model.tokenizer([text])["input_ids"])
    return model.tokenizer.batch_decode(model.generate(ids, **settings), skip_special_tokens=True)[0]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_texts_come_back_in_their_order_whatever_the_batch(model: EncoderDecoderModel, batch_size: int) -> None:
    made = generate_texts(model, SOURCES, TextSettings(batch_size=batch_size))
    assert made == [one_by_one(model, text) for text in SOURCES]


def test_beams_and_several_results_are_kept_apart(model: EncoderDecoderModel) -> None:
    settings = TextSettings(generation={"num_beams": 3, "num_return_sequences": 2})
    (batch,) = generate_stream(model, enumerate(SOURCES), settings)
    assert sorted(made.index for made in batch) == [0, 1, 2, 3]
    assert all(len(made.texts) == 2 for made in batch)
    assert next(m.texts[0] for m in batch if m.index == 1) == one_by_one(model, SOURCES[1], num_beams=3)


def test_stop_strings_end_texts_of_many_sources(model: EncoderDecoderModel) -> None:
    """They need a tokenizer, which bulk generation has."""
    whole = generate_texts(model, SOURCES)
    stop = next(text[2:4] for text in whole if len(text) > 6)
    cut = generate_texts(model, SOURCES, TextSettings(generation={"stop_strings": [stop]}))
    for text, before in zip(cut, whole, strict=True):
        assert before.startswith(text) and (stop not in before or (stop in text and len(text) <= len(before)))
    settings = copy.deepcopy(model.generation_config)
    settings.max_new_tokens = 2
    ids = model.tokenizer(SOURCES[:2], padding=True, return_tensors="pt")
    ((_, found),) = model.generate_batches([(0, {**ids, "generation_config": settings})])
    assert found.sequences.equal(model.generate(**ids, generation_config=settings))


def test_no_tokens_may_be_asked_for(model: EncoderDecoderModel) -> None:
    assert generate_texts(model, SOURCES, TextSettings(generation={"max_new_tokens": 0})) == [""] * len(SOURCES)


def test_sampling_repeats_itself_and_leaves_the_random_state(model: EncoderDecoderModel) -> None:
    settings = TextSettings(generation={"do_sample": True}, seed=5)
    before = torch.get_rng_state()
    first = generate_texts(model, SOURCES, settings)
    assert torch.equal(before, torch.get_rng_state())
    assert generate_texts(model, SOURCES, settings) == first
    assert generate_texts(model, SOURCES, TextSettings(generation={"do_sample": True}, seed=6)) != first


SAMPLED: dict[str, dict[str, Any]] = {
    "one result": {"do_sample": True},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"do_sample": True, "num_beams": 2},
}


@pytest.mark.parametrize("kind", SAMPLED)
def test_a_source_draws_the_same_in_any_batch_and_alone_with_its_seed(kind: str, model: EncoderDecoderModel) -> None:
    texts = SOURCES * 3

    def results(batch_size: int, indices: list[int]) -> dict[int, list[str]]:
        settings = TextSettings(batch_size=batch_size, generation=SAMPLED[kind], seed=5)
        stream = generate_stream(model, ((index, texts[index]) for index in indices), settings)
        return {made.index: made.texts for batch in stream for made in batch}

    whole = results(32, list(range(12)))
    assert results(1, list(range(12))) == results(5, [7, 3, *range(3), *range(4, 7), *range(8, 12)]) == whole
    assert len({whole[0][0], whole[4][0], whole[8][0]}) > 1, "equal texts drew the same"
    torch.manual_seed(source_seed(5, 9))
    ids = model.generate(torch.tensor(model.tokenizer([texts[9]])["input_ids"]), **SAMPLED[kind])
    assert model.tokenizer.batch_decode(ids, skip_special_tokens=True) == whole[9]


def test_seeds_of_a_run_differ_and_two_runs_share_no_stretch() -> None:
    assert len({source_seed(0, index) for index in range(10_000)}) == 10_000
    assert not {source_seed(0, index) for index in range(10_000)} & {source_seed(1, index) for index in range(10_000)}
    assert source_seed(2**70, 5) < 2**32


def test_scores_of_results_are_those_of_beam_search(model: EncoderDecoderModel) -> None:
    settings = TextSettings(scores=True, generation={"num_beams": 3, "num_return_sequences": 2})
    (empty, batch) = generate_stream(model, enumerate([*SOURCES, ""]), settings)
    assert empty[0].scores is None
    made = {each.index: each for each in batch}
    ids = torch.tensor(model.tokenizer([SOURCES[2]])["input_ids"])
    alone = model.generate(ids, num_beams=3, num_return_sequences=2, return_dict_in_generate=True, output_scores=True)
    assert made[2].scores == pytest.approx(alone.sequences_scores.tolist(), rel=1e-6)
    with pytest.raises(GenerationError, match="Only beam search has scores"):
        list(generate_stream(model, enumerate(SOURCES), TextSettings(scores=True)))


def test_a_source_that_fails_does_not_stop_the_others(
    model: EncoderDecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = generate_texts(model, SOURCES)
    original, bad = model.encoder.forward, model.tokenizer([SOURCES[1]])["input_ids"][0]

    def fail(ids: Any, *others: Any, **more: Any) -> Any:
        if any(row[: len(bad)] == bad for row in ids.tolist()):
            raise RuntimeError("not enough memory:\n you tried to allocate 9 bytes")
        return original(ids, *others, **more)

    monkeypatch.setattr(model.encoder, "forward", fail)
    (batch,) = generate_outcomes(model, enumerate(SOURCES), TextSettings())
    found = {made.index: made.error if isinstance(made, Failed) else made.texts[0] for made in batch}
    assert found == {
        **dict(enumerate(wanted)),
        1: "RuntimeError: not enough memory: you tried to allocate 9 bytes",
    }
    with pytest.raises(RuntimeError, match="not enough memory"):
        generate_texts(model, SOURCES)


def test_an_empty_text_gives_an_empty_result(model: EncoderDecoderModel) -> None:
    assert generate_texts(model, ["", SOURCES[0], "  "]) == ["", one_by_one(model, SOURCES[0]), ""]


def test_a_long_source_is_cut_and_said_to_be(model: EncoderDecoderModel) -> None:
    long = "cat " * 500
    made = [m for batch in generate_stream(model, enumerate([long, "a dog"]), TextSettings()) for m in batch]
    assert [m.cut for m in sorted(made, key=lambda m: m.index)] == [True, False]


def test_what_was_read_before_an_error_is_generated_first(model: EncoderDecoderModel) -> None:
    def reader() -> Iterator[tuple[int, str]]:
        yield from enumerate(SOURCES[:3])
        raise DataError("line 4: not JSON")

    done: list[int] = []
    with pytest.raises(DataError, match="line 4"):
        for batch in generate_stream(model, reader(), TextSettings()):
            done += [made.index for made in batch]
    assert sorted(done) == [0, 1, 2]


def test_batches_that_have_begun_are_done_before_another_fails(
    model: EncoderDecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, original = list[int](), model.encoder.forward
    monkeypatch.setattr(overlap, "_JOINS_AT", 3.0)  # three batches of one source overlap

    def fail(ids: Any, *others: Any, **more: Any) -> Any:
        begun.append(len(begun))
        if len(begun) == 3:
            raise RuntimeError("not enough memory")
        return original(ids, *others, **more)

    monkeypatch.setattr(model.encoder, "forward", fail)
    texts, done, read = [f"{'the cat ' * count} ran" for count in range(9, 0, -1)], list[int](), list[int]()

    def reader() -> Iterator[tuple[int, str]]:
        for number in range(3 * WINDOW):
            read.append(number)
            yield number, texts[number % len(texts)]

    settings = TextSettings(batch_size=1, generation={"min_new_tokens": 9})
    with pytest.raises(RuntimeError, match="not enough memory"):
        for batch in generate_stream(model, reader(), settings):
            assert len(begun) == 3  # nothing was done when the third began
            done += [each.index for each in batch]
    assert len(done) == 2 and len(begun) == 3
    assert len(read) == WINDOW  # no more than when it failed


def test_a_result_that_cannot_be_decoded_is_its_sources(
    model: EncoderDecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("no such token")

    monkeypatch.setattr(model.tokenizer, "batch_decode", fail)
    (batch,) = generate_outcomes(model, enumerate(SOURCES), TextSettings())
    assert {each.index for each in batch if isinstance(each, Failed)} == set(range(len(SOURCES)))


def test_settings_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size = 0"):
        TextSettings(batch_size=0)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_loss_and_accuracy_are_the_models_own(model: EncoderDecoderModel, batch_size: int) -> None:
    found = evaluate(model, SOURCES, TARGETS, metrics="bleu", settings=TextSettings(batch_size=batch_size))
    batch = model.tokenizer(SOURCES, text_target=TARGETS, padding=True, return_tensors="pt")
    kept = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        output = model(**kept)
    counted = kept["labels"] != -100
    correct = (output.logits.argmax(-1) == kept["labels"])[counted].double().mean()
    assert found["loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert found["token_accuracy"] == pytest.approx(100 * correct.item())
    assert found.predictions == generate_texts(model, SOURCES)
    assert found.losses.shape == (4,)


def test_a_model_in_training_stays_in_training(model: EncoderDecoderModel) -> None:
    model.train()
    try:
        evaluate(model, SOURCES, TARGETS, metrics="exact_match")
        assert model.training
    finally:
        model.eval()


def test_predictions_go_to_a_file_and_scores_to_plain_values(model: EncoderDecoderModel, tmp_path: Path) -> None:
    found = evaluate(model, SOURCES, TARGETS, metrics="chrf")
    found.save_predictions(tmp_path / "p.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == list(found.predictions)
    assert [row["loss"] for row in rows] == pytest.approx(found.losses.tolist(), abs=1e-6)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["pairs"] == 4
    low, value, high = (told["scores"]["loss"][key] for key in ("low", "value", "high"))
    assert low <= value <= high
    assert "version" in told["scores"]["chrf"]["signature"]


def test_two_models_are_compared_on_the_same_pairs(model: EncoderDecoderModel) -> None:
    found = evaluate(model, SOURCES, TARGETS, metrics="chrf")
    assert [row.name for row in found.compare(found)] == ["chrf", "loss", "token_accuracy"]
    other = evaluate(model, SOURCES[:3], TARGETS[:3], metrics="chrf")
    with pytest.raises(ConfigError, match="different pairs"):
        found.compare(other)


def test_losses_over_other_tokens_are_not_compared(model: EncoderDecoderModel) -> None:
    one, other = (evaluate(model, SOURCES, TARGETS, metrics="chrf") for _ in range(2))
    next(m for m in other.measures if m.name == "loss").rows[0, 1] += 1
    assert [row.name for row in one.compare(other)] == ["chrf", "token_accuracy"]


def test_attention_is_recorded_row_by_row(model: EncoderDecoderModel, tmp_path: Path) -> None:
    read = partial(cross_attention, model)
    record(model, read, zip(SOURCES[:2], TARGETS[:2], strict=True), tmp_path / "attention.json")
    first, second = json.loads((tmp_path / "attention.json").read_text())
    assert len(first["layers"]) == model.decoder.spec.num_layers
    weights = np.array(first["layers"])
    assert weights.shape[1:] == (len(first["target"]), len(first["source"]))
    assert weights.sum(-1) == pytest.approx(np.ones(weights.shape[:2]), abs=0.01)
    assert first["source"][0] == "[CLS]"
    assert second["layers"]


BAD = {
    "not JSON": ('{"source": "a"}\n{"source"', "line 2: not JSON at column 10"),
    "no text": ('{"text": "a"}', "line 1: no text under 'source'; the object has 'text'"),
    "no object": ("[1]", "line 1: a list, expected an object"),
    "not UTF-8": (b'{"source": "a"}\n"\xff"', "line 2: not UTF-8 at byte 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_line_is_told_with_file_and_line(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    path = tmp_path / "in.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    file = SourceFile.of(str(path), None, "source")
    with pytest.raises(DataError) as checked:
        file.check()
    with pytest.raises(DataError) as read:
        list(file.rows())
    assert message in str(checked.value) and str(path) in str(checked.value)
    assert message in str(read.value) and str(path) in str(read.value)


def test_sources_are_read_from_text_and_json_zipped_or_not(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"id": 7, "source": "one"}\n\n"two"\n')
    plain = SourceFile.of(str(tmp_path / "a.txt"), None, "source")
    zipped = SourceFile.of(str(tmp_path / "b.jsonl.gz"), None, "source")
    assert [text for text, _ in plain.rows()] == ["one", "", "two"]
    assert list(zipped.rows()) == [("one", {"id": 7, "source": "one"}), ("two", {"source": "two"})]
    assert (plain.check(), zipped.check()) == (3, 2)


@pytest.mark.parametrize(
    ("name", "message"), [("no.txt", "no such file"), ("no.csv", "no such file"), ("", "a folder")]
)
def test_files_that_are_no_sources_are_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        SourceFile.of(str(tmp_path / name), None, "source")


def test_sources_leave_room_for_what_continues_them(tmp_path: Path) -> None:
    """One position table for both: 48 places, of which the settings of the call keep 20 for results."""
    folder = with_tokenizer(tmp_path / "gpt2", "gpt2", n_positions=48)
    pair = EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, cross_attention_init="layerwise")
    pair.generation_config.max_new_tokens = 4
    long, short = "cat " * 60, "a cat"
    settings = TextSettings(generation={"max_new_tokens": 20, "min_new_tokens": 20})
    both, alone = generate_texts(pair, [long, short], settings), generate_texts(pair, [short], settings)
    assert both[1] == alone[0]
    assert len(pair.tokenizer.target(both[0])["input_ids"]) > 10
    found = evaluate(pair, [long, short], ["dog " * 60, "a dog"], metrics="chrf", settings=settings)
    assert np.isfinite(found.losses).all() and found.cut == 1
