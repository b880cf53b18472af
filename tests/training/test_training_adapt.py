"""Raw text becomes pairs, of which it can be put together again, cut as the papers say and the same for a seed."""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import conjoin.cli
from conjoin import ConfigError, DataError, EncoderDecoderModel, Seq2SeqTrainer, TrainingArguments
from conjoin.texts.documents import Documents, segments, words
from conjoin.tokenizer import AutoTokenizer, TokenizerPair
from conjoin.training import RawText, Recipe, TrainerCallback
from conjoin.training.data.corpus import Corpus
from conjoin.training.data.datasets import Making, to_corpus
from conjoin.training.data.objectives import (
    HALVES,
    UL2,
    Continuing,
    Denoising,
    Infilling,
    Marks,
    Objective,
    Sentinels,
    marks_of,
    spans_of,
)
from conjoin.training.launch import launch
from conjoin.training.settings.recipe import Sources
from lanes import lanes
from tokenizer_samples import raw_folder
from training_toys import (
    WORDS,
    arguments,
    halves,
    tokenizers,
    toy_model,
    weights,
    write_rows,
)

DRAW = random.Random(5)
TEXTS = [
    "Der schnelle  braune\tFuchs springt, über den faulen Hund – und das zweimal.",
    "東京は日本の首都である。 Tokyo is the capital 人口は多い",
    "a" * 70 + " b " + "ü" * 50,
    "\n first line\nsecond line of it\n\nthird",
    *(" ".join(DRAW.choices(WORDS, k=DRAW.randint(2, 90))) for _ in range(20)),
]
MARKS: list[Marks] = [Sentinels(100), Sentinels(3), Infilling("[MASK]"), Infilling("")]


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text.rstrip()
    assert all(len(word.strip()) <= 24 and not re.search(r"\S\s", word) for word in words(text))


def rebuilt(source: str, target: str, marks: Marks) -> str:
    """The text of both sides, without the objective's code."""
    if isinstance(marks, Infilling):
        return target
    kept, spans = re.split(r"<extra_id_\d+>", source), re.split(r"<extra_id_\d+>", target)[1:-1]
    numbers = [re.findall(r"<extra_id_(\d+)>", side) for side in (source, target)]
    assert numbers[0] == [str(number) for number in range(len(spans))] == numbers[1][:-1]
    assert len(numbers[1]) <= marks.count
    return "".join(piece for pair in zip(kept, [*spans, ""], strict=True) for piece in pair)


@pytest.mark.parametrize("marks", MARKS, ids=str)
@pytest.mark.parametrize("task", [*UL2, HALVES], ids=str)
def test_a_text_is_put_together_from_its_sides(task: Any, marks: Marks) -> None:
    objective = Objective(tasks=(task,), marks=marks, words_per_token=0.7)
    for number, text in enumerate(TEXTS):
        for epoch in range(4):
            sides = objective.sides(text, 0, generator(number, epoch))
            assert sides.source.strip() or (isinstance(marks, Infilling) and not marks.mask)
            assert sides.target.strip()
            if isinstance(task, Continuing):
                assert text.startswith(sides.source) and text.endswith(sides.target)
                assert not text[len(sides.source) : len(text) - len(sides.target)].strip()
            else:
                assert rebuilt(sides.source, sides.target, marks) == text
            if isinstance(task, Denoising) and isinstance(marks, Infilling):
                left, letters = sides.source.replace(marks.mask, ""), iter(text)
                assert len(left) < len(text) and all(letter in letters for letter in left)


def test_halves_are_halves_and_a_suffix_has_a_quarter_on_average() -> None:
    text = " ".join(WORDS * 5)
    sides = Objective(tasks=(HALVES,), marks=Sentinels(9)).sides(text, 0, generator(1))
    assert (len(words(sides.source)), len(words(sides.target))) == (50, 50)
    suffix = Objective(tasks=(UL2[2],), marks=Sentinels(9))
    shares = [len(words(suffix.sides(text, 0, generator(seed)).target)) / 100 for seed in range(2000)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.01)
    assert min(shares) == 0.01 and max(shares) == 0.5


@pytest.mark.parametrize("per_token", [1.0, 0.75])
@pytest.mark.parametrize("task", [task for task in UL2 if isinstance(task, Denoising)], ids=str)
def test_spans_have_the_share_and_the_mean_length_of_the_paper(task: Denoising, per_token: float) -> None:
    count, seeds = (600, 300) if task.span < 10 else (9600, 20)
    pieces = [f" w{number}" for number in range(count)]
    taken = np.zeros(count)
    lengths: list[int] = []
    for seed in range(seeds):
        texts = spans_of(pieces, task, per_token, 1000, generator(seed))
        assert "".join(texts) == "".join(pieces) and len(texts) % 2 and all(texts[1:-1])
        at = 0
        for number, text in enumerate(texts):
            size = len(words(text))
            if number % 2:
                taken[at : at + size] += 1
                lengths.append(size)
            at += size
    assert taken.sum() / seeds / count == pytest.approx(task.density, abs=1e-3)
    assert len(lengths) / seeds == round(count * task.density / (task.span * per_token))
    assert np.mean(lengths) == pytest.approx(task.span * per_token, rel=0.05)
    assert len(set(lengths)) > 4
    if task.span < 10:
        assert taken.std() < 0.25 * taken.mean()


def test_every_division_of_a_text_is_equally_likely() -> None:
    """Two words of five, no neighbours: against counting."""
    pieces, counts = list("abcde"), dict[str, int]()
    for seed in range(6000):
        texts = spans_of(pieces, Denoising(1, 0.4), 1.0, 9, generator(seed))
        counts["|".join(texts)] = counts.get("|".join(texts), 0) + 1
    assert set(counts) == {"|a|b|c|de", "|a|bc|d|e", "|a|bcd|e|", "a|b|c|d|e", "a|b|cd|e|", "ab|c|d|e|"}
    assert all(count == pytest.approx(1000, abs=120) for count in counts.values())


def test_segments_are_paragraphs_of_one_document_up_to_the_size(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    lines = [*TEXTS[0].split(". "), "", "x " * 40, *TEXTS[4:]]
    path.write_text("\n".join(lines))
    found = list(segments(Documents([path]), 60))
    assert max(map(len, found)) <= 60
    assert "".join("".join(found).split()) == "".join("".join(lines).split())
    assert sum(map(len, found)) / len(found) > 40
    rows = write_rows(tmp_path / "b.jsonl", [{"text": f"w1 w{number}\nw2"} for number in range(3)])
    assert list(segments(Documents(rows), 60)) == ["w1 w0\nw2", "w1 w1\nw2", "w1 w2\nw2"]
    assert list(segments(Documents(["w1 w2\nw3", "w4 w5"]), 60)) == ["w1 w2\nw3", "w4 w5"]
    assert list(segments(Documents([{"text": "w1 w2"}]), 60)) == ["w1 w2"]


def test_tokenizers_decide_how_spans_are_marked(tmp_path: Path) -> None:
    pair = tokenizers(tmp_path)
    assert marks_of(pair) == Infilling("[MASK]")
    assert "become [MASK]" in marks_of(pair).describe()
    t5 = AutoTokenizer.from_pretrained(raw_folder("t5", tmp_path / "t5"))
    assert marks_of(t5) == Sentinels(7) and marks_of(TokenizerPair(pair.source, t5)) == Infilling("[MASK]")
    gpt2 = AutoTokenizer.from_pretrained(raw_folder("gpt2", tmp_path / "gpt2"))
    assert marks_of(gpt2) == Infilling("") and "are deleted" in marks_of(gpt2).describe()


LINES = [" ".join(DRAW.choices(WORDS, k=DRAW.randint(8, 40))) for _ in range(200)]


def corpus(tmp_path: Path, raw: RawText, **changes: Any) -> Corpus:
    args = TrainingArguments(**{"max_source_length": 24, "max_target_length": 20} | changes)
    return to_corpus(raw, "the text", Making(args, toy_model().spec, tokenizers(tmp_path), shown=False))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONJOIN_DATA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.mark.parametrize("name", ["prefixlm", "ul2", "denoise"])
def test_pairs_are_a_function_of_seed_epoch_and_segment(name: Any, file: Path, tmp_path: Path) -> None:
    one, again = (corpus(tmp_path, RawText([file], name)) for _ in range(2))
    memory = corpus(tmp_path, RawText([file], name), data_cache=False)
    other = corpus(tmp_path, RawText([file], name), seed=2)
    rows = [7, 3, 3, 60]
    assert one.pairs(2, rows) == again.pairs(2, rows) == memory.pairs(2, rows)
    assert one.pairs(2, [60]).sources == one.pairs(2, rows).sources[-1:]
    assert (one.pairs(2, rows).sources == one.pairs(3, rows).sources) == (name == "prefixlm")
    assert one.fingerprint() == again.fingerprint() == memory.fingerprint() != other.fingerprint()
    np.testing.assert_array_equal(one.lengths, memory.lengths)
    assert len(list((tmp_path / "cache").glob("conjoin-*[0-9a-f]"))) == 1


@pytest.mark.parametrize("name", ["prefixlm", "ul2", "denoise"])
def test_batches_are_made_of_their_segments_and_keep_their_planned_length(
    name: Any, file: Path, tmp_path: Path
) -> None:
    made = corpus(tmp_path, RawText([file], name))
    batches = [[[5], [6]], [[9, 2]]]
    examples, renumbered = made.drawn(1, batches)
    assert renumbered == [[[0], [1]], [[2, 3]]]
    pairs = made.pairs(1, [5, 6, 9, 2])
    for row, (source, target) in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
        encoded = tokenizers(tmp_path)(
            [source], text_target=[target], truncation=True, max_length=24, max_target_length=20
        )
        assert examples.sources[row].tolist() == encoded["input_ids"][0]
        assert examples.labels[row].tolist() == encoded["labels"][0]
    everything, _ = made.drawn(0, [[[row] for row in range(len(made))]])
    assert (everything.lengths <= made.lengths).mean() > 0.97
    assert everything.lengths.sum() / made.lengths.sum() > (0.5 if name == "ul2" else 0.6)
    assert everything.cut < 0.2 * len(made)
    assert made.where([4, 2]) == f"{file}, segments 3, 5"


def test_ul2_draws_its_tasks_in_equal_parts_and_says_which(file: Path, tmp_path: Path) -> None:
    file.write_text("\n".join(LINES * 20))
    made = corpus(tmp_path, RawText([file], "ul2", mode_tokens=True))
    sources = made.pairs(0, range(len(made))).sources
    modes = [source.split()[0] for source in sources]
    for mode, share in (("[NLU]", 2 / 7), ("[S2S]", 1 / 7), ("[NLG]", 4 / 7)):
        assert modes.count(mode) / len(modes) == pytest.approx(share, abs=0.03)
    assert not corpus(tmp_path, RawText([file], "ul2")).pairs(0, [0]).sources[0].startswith("[")


class Stop(TrainerCallback):
    """Raises at the end of a step of the second epoch."""

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


CHANGES: list[dict[str, Any]] = [{}, {"tokens_per_batch": 300, "packing": True, "gradient_accumulation_steps": 2}]


@pytest.mark.parametrize("changes", lanes(CHANGES, bool), ids=lambda changes: "packed" if changes else "rows")
def test_a_run_on_raw_text_resumes_to_the_bit(changes: dict[str, Any], file: Path, tmp_path: Path) -> None:
    file.write_text("\n".join(LINES[:12]))
    values = {"max_source_length": 24, "max_target_length": 20, "save_steps": 3, "max_steps": 9} | changes

    def trainer(name: str, *callbacks: TrainerCallback) -> Seq2SeqTrainer:
        raw = RawText([file], "ul2")
        args = arguments(tmp_path / name, **values)
        model = toy_model(tmp_path, dropout=0.1)
        return Seq2SeqTrainer(model, args=args, train_dataset=raw, eval_dataset=raw, callbacks=callbacks)

    whole = trainer("whole")
    assert whole.train().metrics["epoch"] > 1
    assert whole.evaluate()["eval_loss"] > 0
    with pytest.raises(KeyboardInterrupt):
        trainer("cut", Stop()).train()
    resumed = trainer("cut")
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=0)


def test_what_cannot_be_used_is_told(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        corpus(tmp_path, RawText([tmp_path / "none.txt"]))
    file.write_text("one\n\ntwo")
    assert len(corpus(tmp_path, RawText([file]))) == 1
    file.write_text("one\n")
    with pytest.raises(DataError, match=r"corpus\.txt has no text that can be divided; expected at least one line"):
        corpus(tmp_path, RawText([file]))
    rows = write_rows(tmp_path / "a.jsonl", [{"text": "w1 w2"}, {"content": "w1"}])
    with pytest.raises(DataError, match=r"line 2: no text under 'text'; .* Name the key with --text-column"):
        corpus(tmp_path, RawText([rows]))
    with pytest.raises(DataError, match="row 2: is a int, expected text"):
        corpus(tmp_path, RawText(["w1 w2", 3]))
    file.write_bytes(b"w1 w2\n\xff\n")
    with pytest.raises(DataError, match=r"line 2: not UTF-8"):
        corpus(tmp_path, RawText([file]))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"text": ["a"], "train": "b"}, "Both train and text are given"),
        ({"train": "b", "objective": "ul2"}, "objective with pairs of texts: without effect"),
        ({"text": ["a"], "mode_tokens": True}, "mode_tokens with objective = prefixlm: without effect"),
        ({"text": ["a"], "objective": "ul2", "mlm_probability": 0.2}, "mlm_probability with objective = ul2"),
        ({"text": ["a"], "validation": "b"}, "validation with text"),
        ({"text": "a"}, "text = 'a'; expected a list of texts"),
        ({"text": ["a"], "mlm_probability": 1.0}, "mlm_probability = 1.0; expected a number between 0 and 1"),
    ],
    ids=str,
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Sources(model="m", **settings).require()


def run(*given: str) -> int:
    """Exit code of `conjoin ...`."""
    try:
        conjoin.cli.main(given)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def adapt(*given: str) -> int:
    return run("adapt", *given)


QUICK = [
    "--use-cpu",
    "--report-to",
    "none",
    "--logging-steps",
    "1",
    "--lr-scheduler-type",
    "constant",
    "--auto",
    "none",
]


def test_the_command_adapts_a_model_and_its_recipe_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "more.jsonl", [{"body": line} for line in LINES])
    toy_model(tmp_path).save_pretrained("model")
    given = ["--text", "corpus.txt", "--text", "more.jsonl", "--text-column", "body", "--objective", "denoise"]
    assert adapt("model", *given, "--validation-text", "corpus.txt", "--out", "run", "--max-steps", "2", *QUICK) == 0
    told = capsys.readouterr()
    assert told.out.strip() == "run"
    shown = " ".join(told.err.split())
    assert re.search(r"corpus\.txt, more\.jsonl: \d+ segments of up to \d+ characters", shown)
    assert "spans become [MASK], since the tokenizers have no <extra_id_...>, and the whole text is the target" in shown
    EncoderDecoderModel.from_pretrained("run")
    assert "segments (corpus.txt, more.jsonl)" in Path("run/README.md").read_text()
    assert adapt("--resume", "--out", "run", "--max-steps", "4") == 0
    assert Path("run/checkpoint-4").is_dir()
    assert run("train", "--config", "run/recipe.yaml", "--out", "again", "--max-steps", "4") == 0
    one, other = (Path(name, "model.safetensors").read_bytes() for name in ("run", "again"))
    assert one == other
    capsys.readouterr()
    assert adapt("model", "--out", "run") == 2
    assert "give the raw text, as in --text corpus.txt" in capsys.readouterr().err
    assert adapt("model", "--text", "none.txt", "--out", "new") == 1
    assert "none.txt: no such file" in capsys.readouterr().err


def test_a_teacher_is_for_pairs(file: Path, tmp_path: Path) -> None:
    args = arguments(tmp_path / "run", teacher="model")
    with pytest.raises(ConfigError, match="teacher = model with raw text: a teacher goes with pairs"):
        Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=RawText([file])).train()


def test_two_halves_are_joined_and_adapted(file: Path, tmp_path: Path) -> None:
    encoder, decoder = halves(tmp_path)
    settings = {"encoder": str(encoder), "decoder": str(decoder), "text": [str(file)], "out": str(tmp_path / "run")}
    launch(Recipe.of(settings | {"max_steps": 1, "use_cpu": True, "report_to": "none", "doctor": False}))
    assert EncoderDecoderModel.from_pretrained(tmp_path / "run").tokenizer is not None
