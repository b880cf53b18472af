"""Languages: codes that a tokenizer knows frame both sides, start what is generated, and are saved with the model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import conjoin.cli
from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import BertConfig, ConfigError, EncoderDecoderConfig, EncoderDecoderModel, MBartConfig, TokenizerError
from conjoin.evaluation import generate_texts
from conjoin.tokenizer import AutoTokenizer, MBart50Tokenizer, MBartTokenizer, TokenizerPair
from conjoin.torch.generation.engine import Handle
from conjoin.training import Recipe, Seq2SeqTrainer
from conjoin.training.launch import launch
from tokenizer_samples import raw_folder
from training_toys import arguments, write_rows

ROWS = [{"source": "the quick fox", "target": "le renard"}, {"source": "a dog", "target": "un chien"}] * 4
SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
KINDS = {"mbart": MBartTokenizer, "mbart50": MBart50Tokenizer}


def tokenizer(folder: Path, kind: str = "mbart50", **options: Any) -> Any:
    return KINDS[kind].from_pretrained(raw_folder(kind, folder / kind), **options)


def whole(folder: Path, kind: str, **options: Any) -> EncoderDecoderModel:
    """A tiny mBART with a tokenizer of its own, saved."""
    torch.manual_seed(0)
    one = tokenizer(folder, kind, **options)
    config = MBartConfig(vocab_size=len(one), **SIZES, **HEADS, decoder_start_token_id=2, eos_token_id=2)
    model = EncoderDecoderModel(config=config)
    model.tokenizer = one
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder / "model")
    return model


def pair(folder: Path, kind: str) -> EncoderDecoderModel:
    """BERT joined to a decoder whose tokenizer has languages, saved."""
    torch.manual_seed(0)
    source: Any = AutoTokenizer.from_pretrained(raw_folder("bert", folder / "bert"))
    target = tokenizer(folder, kind)
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    halves = (BertConfig(vocab_size=len(each), **sizes) for each in (source, target))
    ids = {"decoder_start_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    model = EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(*halves, **ids))
    model.tokenizer = TokenizerPair(source, target)
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(folder / "model")
    return model


def target_of(model: Any) -> Any:
    return getattr(model.tokenizer, "target", model.tokenizer)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Every row of ids that a model generates."""
    rows: list[list[int]] = []

    def recorded(method: Any) -> Any:
        def record(self: Any, *args: Any, **kwargs: Any) -> Any:
            made = method(self, *args, **kwargs)
            rows.extend(getattr(made, "sequences", made).tolist())
            return made

        return record

    for name in ("generate", "generate_results"):
        monkeypatch.setattr(EncoderDecoderModel, name, recorded(getattr(EncoderDecoderModel, name)))
    batches = EncoderDecoderModel.generate_batches

    def record_batches(self: Any, *args: Any) -> Any:
        for name, made in batches(self, *args):
            rows.extend(made.sequences.tolist())
            yield name, made

    monkeypatch.setattr(EncoderDecoderModel, "generate_batches", record_batches)
    monkeypatch.setattr(Handle, "result", recorded(Handle.result))
    return rows


def starts(kind: str, first: int, code: int) -> list[int]:
    """What rows begin with: the start and then the language, or the language as the start."""
    return [first, code] if kind == "mbart50" else [code]


def assert_all_start(rows: list[list[int]], start: list[int]) -> None:
    assert rows
    assert {tuple(row[: len(start)]) for row in rows} == {tuple(start)}


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_their_ids(kind: str, tmp_path: Path) -> None:
    one = tokenizer(tmp_path, kind)
    assert list(one.lang_code_to_id) == list(KINDS[kind].languages)
    assert all(one.convert_tokens_to_ids(code) == index for code, index in one.lang_code_to_id.items())
    one.save_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").lang_code_to_id == one.lang_code_to_id  # pyright: ignore
    with pytest.raises(AttributeError):
        AutoTokenizer.from_pretrained(raw_folder("bert", tmp_path / "bert")).lang_code_to_id  # noqa: B018  # pyright: ignore


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_letters_of_a_language_mean_its_only_code(kind: str, tmp_path: Path) -> None:
    one = tokenizer(tmp_path, kind, src_lang="cs")
    assert one.src_lang == "cs_CZ"
    one.src_lang, one.tgt_lang = "ro", "deu"
    assert (one.src_lang, one.tgt_lang) == ("ro_RO", "de_DE")
    assert "ro_RO" in one("a").tokens()
    one.save_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tgt_lang == "de_DE"  # pyright: ignore


@pytest.mark.parametrize(
    ("code", "near"), [("ro_RR", "ro_RO"), ("de_DD", "de_DE"), ("enn", "en_XX"), ("FR_xx", "fr_XX"), ("qq", "ar_AR")]
)
def test_a_language_that_is_none_names_those_that_are_like_it(code: str, near: str, tmp_path: Path) -> None:
    one = tokenizer(tmp_path)
    for side in ("src_lang", "tgt_lang"):
        with pytest.raises(TokenizerError, match=rf"language '{code}' is none .*{near}"):
            setattr(one, side, code)
    added = one.get_added_vocab()  # two or three letters may be a language's code
    word = next(token for token in one.get_vocab() if token not in added and token.isalpha() and len(token) == 1)
    with pytest.raises(TokenizerError, match="is none"):  # a word of the vocabulary is no language
        one.src_lang = word
    one.add_special_tokens({"extra_special_tokens": ["la_XX"]}, replace_extra_special_tokens=False)
    one.tgt_lang = "la_XX"  # a language of the user's own is
    assert one.target_language.id == one.convert_tokens_to_ids("la_XX")


@pytest.mark.parametrize(
    ("make", "kind", "framework"),
    [
        *((make, kind, "torch") for make in (whole, pair) for kind in KINDS),
        (whole, "mbart50", "jax"),
        pytest.param(pair, "mbart", "jax", marks=pytest.mark.slow),
        pytest.param(whole, "mbart", "jax", marks=pytest.mark.slow),
        pytest.param(pair, "mbart50", "jax", marks=pytest.mark.slow),
    ],
)
def test_what_is_trained_into_a_language_is_saved_and_generated_in_it(
    framework: str,
    make: Any,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: list[list[int]],
    run: Any,
) -> None:
    make(tmp_path, kind)
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    words: dict[str, Any] = {
        "model": str(tmp_path / "model"),
        "train": str(tmp_path / "pairs.jsonl"),
        "validation": str(tmp_path / "pairs.jsonl"),
        "framework": framework,
        "target_language": "ro_RO",
        "max_steps": 1,
        "warmup_steps": 0,
        "use_cpu": True,
        "report_to": "none",
        "doctor": False,
        "out": str(tmp_path / "out"),
    }
    if make is whole:
        words["source_language"] = "cs_CZ"
    launch(Recipe.of(words))
    model = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    target = target_of(model)
    code = target.lang_code_to_id["ro_RO"]
    assert target.tgt_lang == "ro_RO"
    if make is whole:
        assert target.src_lang == "cs_CZ"
        assert "cs_CZ" in target("a").tokens()
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert saved.get("forced_bos_token_id") == (code if kind == "mbart50" else None)
    start = starts(kind, 2 if make is whole else 0, code)
    assert saved["decoder_start_token_id"] == start[0]
    if framework == "torch":
        assert_all_start(written, start)  # the samples of the run
    written.clear()
    assert run("generate", tmp_path / "out", "the fox").code == 0
    assert run("evaluate", tmp_path / "out", tmp_path / "pairs.jsonl", "--metrics", "chrf").code == 0
    assert_all_start(written, start)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [whole, pair])
def test_commands_take_another_language(
    made: Any, kind: str, tmp_path: Path, run: Any, written: list[list[int]]
) -> None:
    model = made(tmp_path, kind)
    code = target_of(model).lang_code_to_id["et_EE"]
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    first = 2 if made is whole else 0
    assert run("generate", tmp_path / "model", "the fox", "--target-language", "et_EE").code == 0
    assert run("generate", tmp_path / "model", "a", "--num-beams", "3", "--target-language", "et_EE").code == 0
    told = run(
        "evaluate", tmp_path / "model", tmp_path / "pairs.jsonl", "--target-language", "et_EE", "--metrics", "chrf"
    )
    assert told.code == 0, told.err
    assert_all_start(written, starts(kind, first, code))
    written.clear()
    assert (
        run("generate", tmp_path / "model", "a", "--target-language", "et_EE", "--output", tmp_path / "o.txt").code == 0
    )
    assert_all_start(written, starts(kind, first, code))


def test_a_results_file_goes_on_in_the_same_language_only(tmp_path: Path, run: Any) -> None:
    whole(tmp_path, "mbart50")
    partial = tmp_path / "o.txt.partial"
    run("generate", tmp_path / "model", "a", "--target-language", "et_EE", "-o", tmp_path / "done.txt")
    assert not partial.exists()
    from conjoin.cli import generating as command

    seen: list[Any] = []
    journal = command.Journal

    class Watched(journal):
        def __init__(self, path: Any, same: Any, **keywords: Any) -> None:
            seen.append(same)
            super().__init__(path, same, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "Journal", Watched)
        for language in ("et_EE", "ro_RO"):
            run("generate", tmp_path / "model", "a", "--target-language", language, "-o", tmp_path / language)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_that_the_tokenizer_knows_starts_evaluations_and_texts(
    kind: str, tmp_path: Path, written: list[list[int]]
) -> None:
    model = whole(tmp_path, kind)
    model.tokenizer.tgt_lang = "ro_RO"  # pyright: ignore[reportAttributeAccessIssue]
    code = target_of(model).lang_code_to_id["ro_RO"]
    generate_texts(model, ["a", "the dog"])
    trainer = Seq2SeqTrainer(model, args=arguments(tmp_path / "run", predict_with_generate=True), eval_dataset=ROWS)
    trainer.evaluate()
    assert_all_start(written, starts(kind, 2, code))


def test_a_first_token_that_the_model_was_told_wins(tmp_path: Path, written: list[list[int]]) -> None:
    model = whole(tmp_path, "mbart50")
    model.tokenizer.tgt_lang = "ro_RO"  # pyright: ignore[reportAttributeAccessIssue]
    model.generation_config.forced_bos_token_id = other = target_of(model).lang_code_to_id["et_EE"]
    generate_texts(model, ["a"])
    assert_all_start(written, [2, other])


def test_no_language_no_first_token(tmp_path: Path, written: list[list[int]]) -> None:
    model = whole(tmp_path, "mbart50")
    generate_texts(model, ["a"])
    model.generate(**model.tokenizer(["a"], return_tensors="pt"))  # pyright: ignore
    assert written[0] == written[1]


def test_a_trainer_refuses_before_it_reads_data(tmp_path: Path) -> None:
    model = whole(tmp_path, "mbart50")
    with pytest.raises(TokenizerError, match=r"'ro_RR' is none .*ro_RO"):
        Seq2SeqTrainer(model, args=arguments(tmp_path / "run", source_language="de_DE", target_language="ro_RR"))
    assert target_of(model).src_lang == "fr_XX"  # nothing changed
    with pytest.raises(ConfigError, match=r"source_language = 'en_XX' .*BertTokenizer, has none"):
        Seq2SeqTrainer(pair(tmp_path / "pair", "mbart50"), args=arguments(tmp_path / "run", source_language="en_XX"))
    model = EncoderDecoderModel(config=model.config)
    with pytest.raises(ConfigError, match="the model has no tokenizer"):
        Seq2SeqTrainer(model, args=arguments(tmp_path / "run", target_language="en_XX"))


def test_commands_say_what_is_wrong_with_a_language(tmp_path: Path, run: Any) -> None:
    pair(tmp_path, "mbart50")
    told = run("generate", tmp_path / "model", "a", "--source-language", "en_XX")
    assert (told.code, "BertTokenizer, has none" in told.err) == (1, True)
    told = run("generate", tmp_path / "model", "a", "--target-language", "romanian")
    assert (told.code, "ro_RO" in told.err) == (1, True)
    with pytest.raises(SystemExit):
        conjoin.cli.main(["train", "--model", str(tmp_path / "model"), "--train", "x.jsonl", "--target-language"])
