"""Pipelines: what they are told, what they read, and what they refuse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import pipeline_models
from conjoin import (
    AutoTokenizer,
    ConfigError,
    ConjoinWarning,
    EncoderDecoderModel,
    GenerationConfig,
    GenerationError,
    ShapeError,
    SummarizationPipeline,
    Text2TextGenerationPipeline,
    TokenizerError,
    TranslationPipeline,
    pipeline,
)
from conjoin.errors import NoTokenizerError
from pairs import fresh, stir, with_tokenizer
from pipeline_cases import LONG, ROMANIAN, SHORT, TEXTS, Texts

lengths_are_odd = pytest.mark.filterwarnings("ignore:A source has")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: getattr(pipeline_models, name)(folder / name) for name in ("t5", "bart", "mbart50")}


@pytest.fixture
def t5(folders: dict[str, Path]) -> EncoderDecoderModel:
    return EncoderDecoderModel.from_pretrained(folders["t5"])


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every call of generate."""
    calls: list[dict[str, Any]] = []
    generate = EncoderDecoderModel.generate

    def recording(self: EncoderDecoderModel, *args: Any, **keywords: Any) -> Any:
        calls.append(keywords)
        return generate(self, *args, **keywords)

    monkeypatch.setattr(EncoderDecoderModel, "generate", recording)
    return calls


def test_the_kinds_of_pipelines_are_transformers_classes(t5: EncoderDecoderModel) -> None:
    assert type(pipeline("summarization", t5)) is SummarizationPipeline
    assert type(pipeline("translation_en_to_de", t5)) is TranslationPipeline
    assert type(pipeline("text2text-generation", t5)) is Text2TextGenerationPipeline
    assert SummarizationPipeline(t5, t5.tokenizer).prefix == ""  # the task is not named
    assert SummarizationPipeline(t5, t5.tokenizer, task="summarization").prefix == "summarize : "


def test_a_translation_without_languages_is_the_first_of_the_config(t5: EncoderDecoderModel) -> None:
    with pytest.warns(ConjoinWarning, match="translation_en_to_de is chosen"):
        assert pipeline("translation", t5).task == "translation_en_to_de"


def test_every_text_gets_the_prefix_of_the_task_or_of_all_tasks(
    folders: dict[str, Path], batches: list[dict[str, Any]]
) -> None:
    config = {"task_specific_params": None, "prefix": "translate : "}
    model = EncoderDecoderModel.from_pretrained(folders["t5"], **config)
    pipeline("text2text-generation", model)(["a dog"], **SHORT)
    assert batches[0]["input_ids"].tolist() == [model.tokenizer("translate : a dog")["input_ids"]]


def test_settings_of_a_task_are_never_written_into_the_model(t5: EncoderDecoderModel) -> None:
    before = t5.generation_config.copy(), t5.config.to_dict()
    pipe = pipeline("summarization", t5, max_new_tokens=5)
    pipe(TEXTS, num_beams=2, src_lang=None)
    assert (t5.generation_config, t5.config.to_dict()) == before
    assert pipe.generation_config == GenerationConfig(num_beams=3, length_penalty=2.0, min_length=3, max_new_tokens=5)


def test_lists_are_generated_by_length_in_batches_and_come_back_in_order(
    t5: EncoderDecoderModel, batches: list[dict[str, Any]]
) -> None:
    pipe = pipeline("text2text-generation", t5, **SHORT)
    alone = [pipe(text)[0] for text in TEXTS]
    batches.clear()
    assert pipe([TEXTS[1], TEXTS[2], TEXTS[0]], batch_size=2) == [alone[1], alone[2], alone[0]]
    assert [tuple(call["input_ids"].shape) for call in batches] == [(2, 10), (1, 4)]
    assert pipe(tuple(TEXTS)) == alone
    assert len(batches) == 3


def test_a_generator_is_read_batch_by_batch(t5: EncoderDecoderModel) -> None:
    read: list[str] = []

    def live() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    pipe = pipeline("text2text-generation", t5, **SHORT)
    results = iter(pipe(live()))
    assert read == []
    assert next(results) == pipe(TEXTS[0])
    assert read == TEXTS[:1]
    next(iter(pipe(live(), batch_size=2)))
    assert read == [*TEXTS[:1], *TEXTS[:2]]


def test_results_before_an_error_of_the_reader_come_first(t5: EncoderDecoderModel) -> None:
    def failing() -> Iterator[str]:
        yield from TEXTS[:2]
        raise OSError("the disk is gone")

    results = iter(pipeline("text2text-generation", t5, **SHORT)(failing(), batch_size=8))
    assert [next(results), next(results)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_results_of_a_data_set_have_its_length_and_can_be_read_twice(t5: EncoderDecoderModel) -> None:
    results = pipeline("text2text-generation", t5, **SHORT)(Texts(TEXTS))
    assert len(results) == 3
    assert list(results) == list(results)


def test_settings_are_checked_before_a_stream_is_read(t5: EncoderDecoderModel) -> None:
    pipe = pipeline("text2text-generation", t5)
    with pytest.raises(ConfigError, match="num_beam: did you mean num_beams"):
        pipe((text for text in TEXTS), num_beam=2)


def test_a_row_that_is_no_text_is_named(t5: EncoderDecoderModel) -> None:
    pipe = pipeline("text2text-generation", t5, **SHORT)
    with pytest.raises(ConfigError, match=r"Item 1 is a list.*expected a text"):
        pipe(["a dog", ["a dog"]])
    with pytest.raises(ConfigError, match="Item 0 is a dict"):
        list(pipe({"text": text} for text in TEXTS))


def test_callbacks_see_one_text_at_a_time(t5: EncoderDecoderModel, batches: list[dict[str, Any]]) -> None:
    pipe = pipeline("text2text-generation", t5, **SHORT)
    pipe(TEXTS, prefix_allowed_tokens_fn=lambda source, ids: [1, 4, 5])
    assert [len(call["input_ids"]) for call in batches] == [1, 1, 1]


@lengths_are_odd
def test_long_sources_are_refused_unless_they_may_be_truncated(folders: dict[str, Path]) -> None:
    pipe = pipeline("summarization", folders["bart"], **SHORT)
    with pytest.raises(ShapeError, match=r"has 61 tokens, but the encoder reads 40: 'the cat(.|\n)*truncation=True"):
        pipe([TEXTS[0], LONG])
    assert len(pipe([TEXTS[0], LONG], truncation="only_first")) == 2
    assert pipeline("summarization", folders["bart"], truncation=True, **SHORT)(LONG)


def test_a_source_over_the_tokenizers_limit_is_read_with_a_warning(t5: EncoderDecoderModel) -> None:
    pipe = pipeline("text2text-generation", t5, **SHORT)
    with pytest.warns(ConjoinWarning, match="A source has 61 tokens; the tokenizer's limit is 30") as warned:
        pipe([LONG, LONG])
    assert len(warned) == 1


def test_lengths_that_do_not_fit_the_task_are_warned_of(t5: EncoderDecoderModel) -> None:
    with pytest.warns(ConjoinWarning, match="A source has 10 tokens, and its summary may have 20"):
        pipeline("summarization", t5)(TEXTS[0], max_length=20)
    with pytest.warns(ConjoinWarning, match=r"A source has 13 tokens, but translations end at 9.*Raise max_length"):
        pipeline("translation_en_to_de", t5)(TEXTS[0], max_new_tokens=9)
    with pytest.warns(ConjoinWarning, match="min_length = 3 of the task gives way"):
        pipeline("summarization", t5)(TEXTS[0], max_length=2)
    with pytest.raises(GenerationError, match="min_length"):
        pipeline("summarization", t5)(TEXTS[0], max_length=5, min_length=9)


def test_max_length_wins_over_the_models_own_max_new_tokens(t5: EncoderDecoderModel) -> None:
    t5.generation_config.max_new_tokens = 20
    pipe = pipeline("text2text-generation", t5)
    (made,) = pipe(TEXTS[2], max_length=5, return_tensors=True)
    assert made["generated_token_ids"].shape == (5,)
    assert made["generated_token_ids"].dtype == torch.int64
    (made,) = pipe(TEXTS[2], generation_config=GenerationConfig(max_length=6, num_beams=1), return_tensors=True)
    assert made["generated_token_ids"].shape == (6,)


def test_ways_of_decoding_without_beams_are_not_given_any(
    t5: EncoderDecoderModel, batches: list[dict[str, Any]]
) -> None:
    pipe = pipeline("text2text-generation", t5, **SHORT)
    greedy = pipe(TEXTS, num_beams=1)
    assert pipe(TEXTS, prompt_lookup_num_tokens=3) == greedy
    assert "num_beams" not in batches[-1]
    pipe(TEXTS)
    assert batches[-1]["num_beams"] == 4


def test_an_assistant_drafts_from_the_constructor_on(t5: EncoderDecoderModel, folders: dict[str, Path]) -> None:
    greedy = pipeline("text2text-generation", t5, **SHORT)(TEXTS[0], num_beams=1)
    pipe = pipeline("text2text-generation", t5, assistant_model=folders["t5"], **SHORT)
    assert pipe(TEXTS[0]) == greedy


def test_a_stop_sequence_ends_results(t5: EncoderDecoderModel) -> None:
    pipe = pipeline("text2text-generation", t5, num_beams=1, **SHORT)
    assert pipe(TEXTS[1]) == [{"generated_text": "world German"}]
    assert pipe(TEXTS[1], stop_sequence="world") == [{"generated_text": "world"}]


def test_sampling_follows_the_global_seed(t5: EncoderDecoderModel) -> None:
    pipe = pipeline("text2text-generation", t5, do_sample=True, num_beams=1, **SHORT)

    def drawn(seed: int) -> Any:
        torch.manual_seed(seed)
        return pipe(TEXTS, num_return_sequences=3)

    assert drawn(1) == drawn(1) != drawn(2)


@lengths_are_odd
def test_languages_of_a_call_leave_the_tokenizer_as_it_was(folders: dict[str, Path]) -> None:
    model = EncoderDecoderModel.from_pretrained(folders["mbart50"])
    before = model.tokenizer("a dog")["input_ids"]
    pipe = pipeline("translation", model, **SHORT)
    made = pipe(TEXTS, **ROMANIAN, return_tensors=True)
    code = model.tokenizer.convert_tokens_to_ids("ro_RO")
    assert {int(each["translation_token_ids"][1]) for each in made} == {code}
    (other,) = pipe("a dog", src_lang="fr_XX", tgt_lang="de_DE", return_tensors=True)
    assert other["translation_token_ids"][1] == model.tokenizer.convert_tokens_to_ids("de_DE")
    assert model.tokenizer("a dog")["input_ids"] == before
    assert model.generation_config.forced_bos_token_id is None


@lengths_are_odd
def test_the_name_of_a_translation_says_its_languages(folders: dict[str, Path]) -> None:
    named = pipeline("translation_en_to_ro", folders["mbart50"], **SHORT)
    assert named(TEXTS) == pipeline("translation", folders["mbart50"], **SHORT)(TEXTS, **ROMANIAN)
    other = {"src_lang": "de_DE", "tgt_lang": "fr_XX"}
    assert named(TEXTS, **other) == pipeline("translation", folders["mbart50"], **SHORT, **other)(TEXTS)


def test_a_model_of_many_languages_is_told_which_to_write(folders: dict[str, Path]) -> None:
    pipe = pipeline("translation", folders["mbart50"], **SHORT)
    with pytest.raises(ConfigError, match=r"tgt_lang is not set.*52 languages"):
        pipe("a dog")
    with pytest.raises(TokenizerError, match=r"language 'ro_XX' is none.*ro_RO"):
        pipe("a dog", src_lang="en_XX", tgt_lang="ro_XX")
    pipe.model.generation_config.forced_bos_token_id = pipe.tokenizer.convert_tokens_to_ids("fr_XX")
    (own,), (other,) = (pipe("a dog", return_tensors=True, **settings) for settings in ({}, ROMANIAN))
    codes = [pipe.tokenizer.convert_ids_to_tokens(int(each["translation_token_ids"][1])) for each in (own, other)]
    assert codes == ["fr_XX", "ro_RO"]


def test_languages_of_a_model_that_has_none_are_warned_of(t5: EncoderDecoderModel) -> None:
    pipe = pipeline("translation_en_to_de", t5, **SHORT)
    assert pipe("a dog")
    with pytest.warns(ConjoinWarning, match="src_lang = 'en_XX' has no effect"):
        pipe("a dog", src_lang="en_XX")
    with pytest.raises(ConfigError, match="src_lang and tgt_lang are for translations"):
        pipeline("summarization", t5)("a dog", tgt_lang="en_XX")


def test_two_tokenizers_read_and_write(tmp_path: Path) -> None:
    halves = with_tokenizer(tmp_path / "bert", "bert"), with_tokenizer(tmp_path / "gpt2", "gpt2")
    model = stir(EncoderDecoderModel.from_encoder_decoder_pretrained(*halves))
    model.config.fresh = []
    pipe = pipeline("summarization", model, num_beams=1, max_new_tokens=7)
    (made,) = pipe("the quick brown fox jumps over the lazy dog", return_tensors=True, return_text=True)
    text = model.tokenizer.decode(made["summary_token_ids"], skip_special_tokens=True)
    assert made["summary_text"] == text != ""
    pipe.save_pretrained(tmp_path / "saved")
    again = pipeline("summarization", str(tmp_path / "saved"), num_beams=1, max_new_tokens=7)
    assert again("the quick brown fox jumps over the lazy dog") == [{"summary_text": text}]


@lengths_are_odd
def test_spaces_before_punctuation_stay_unless_they_are_cleaned_up(t5: EncoderDecoderModel) -> None:
    pipe = pipeline("summarization", t5, num_beams=3, max_new_tokens=18)
    (as_written,), (clean,) = pipe(TEXTS[0]), pipe(TEXTS[0], clean_up_tokenization_spaces=True)
    assert " !" in as_written["summary_text"]
    assert clean["summary_text"] == as_written["summary_text"].replace(" !", "!")


def test_a_tokenizer_may_be_given_or_named(t5: EncoderDecoderModel, folders: dict[str, Path]) -> None:
    expected = pipeline("text2text-generation", t5, **SHORT)(TEXTS)
    for tokenizer in (folders["t5"], str(folders["bart"]), (str(folders["t5"]), {"use_fast": False}), t5.tokenizer):
        assert pipeline("text2text-generation", folders["t5"], None, tokenizer, **SHORT)(TEXTS) == expected
    with pytest.raises(ConfigError, match="tokenizer is a int; expected a tokenizer"):
        pipeline("text2text-generation", t5, tokenizer=3)
    with pytest.raises(NoTokenizerError):
        pipeline("text2text-generation", fresh())


def test_a_model_in_training_is_evaluated_and_goes_on_training(folders: dict[str, Path]) -> None:
    model = EncoderDecoderModel.from_pretrained(folders["t5"], dropout_rate=0.5)
    expected = pipeline("text2text-generation", model, **SHORT)(TEXTS)
    assert pipeline("text2text-generation", model.train(), **SHORT)(TEXTS) == expected
    assert model.training


@lengths_are_odd
def test_adapters_are_generated_with(t5: EncoderDecoderModel) -> None:
    expected = pipeline("summarization", t5, **SHORT)(TEXTS)
    adapter = peft.LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, target_modules=["q", "v"])
    adapted: Any = peft.get_peft_model(t5, adapter)
    pipe = pipeline("summarization", adapted, **SHORT)
    assert pipe.prefix == "summarize : "
    assert pipe(TEXTS) != expected


def test_what_loading_takes_is_taken(folders: dict[str, Path]) -> None:
    config = EncoderDecoderModel.from_pretrained(folders["t5"]).config.copy(task_specific_params=None)
    pipe = pipeline("summarization", folders["t5"], config=config, torch_dtype="bfloat16", device=-1)
    assert (pipe.prefix, pipe.model.dtype, pipe.device) == ("", torch.bfloat16, torch.device("cpu"))
    pipe = pipeline(
        "summarization", folders["t5"], str(folders["t5"]), dtype="auto", device_map="cpu", use_fast=False,
        framework="pt", trust_remote_code=False, token=None, model_kwargs={"local_files_only": True},
    )  # fmt: skip
    assert (pipe.prefix, pipe.model.dtype, pipe.framework) == ("summarize : ", torch.float32, "pt")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"task": "summarisation"}, "'summarisation'; expected one of .* Did you mean summarization"),
        ({"task": None}, "task = None; expected one of"),
        ({"task": "text-generation"}, "which encoder-decoder models do"),
        ({"task": "translation_en_de"}, "expected one of .*translation_xx_to_yy"),
        ({"model": None}, r'model is not given.*model="sshleifer/distilbart-cnn-12-6"'),
        ({"model": torch.nn.Linear(2, 2)}, "model is a Linear; expected a model of conjoin"),
        ({"framework": "pytroch"}, "framework = 'pytroch'; expected 'pt', 'tf' or 'flax'"),
        ({"framework": "tf"}, "framework = 'tf', but the model is of 'pt'"),
        ({"device": "cuda:99"}, "device = 'cuda:99'"),
        ({"dtype": "bfloat16"}, "dtype: for a model that is named"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "expected one of them"),
        ({"revision": "main"}, "revision: for a model that is named"),
        ({"trust_remote_code": True}, "trust_remote_code = True: .* run code of conjoin only"),
        ({"batch_size": 0}, "batch_size = 0; expected a whole number"),
        ({"truncation": "only_second"}, "truncation = 'only_second'; expected True"),
        ({"return_text": False}, "return_text = False leaves nothing to return"),
        ({"output_scores": True}, r"output_scores: .*pipe\.model\.generate"),
        ({"max_lenght": 3}, "max_lenght: did you mean max_length"),
    ],
    ids=str,
)
def test_impossible_arguments_are_named(t5: EncoderDecoderModel, arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){error}"):
        pipeline(**{"task": "summarization", "model": t5, **arguments})


def test_workers_have_no_effect(t5: EncoderDecoderModel) -> None:
    with pytest.warns(ConjoinWarning, match="num_workers = 2: no effect"):
        pipeline("summarization", t5, num_workers=2)


def test_the_names_of_the_class_and_the_task_agree(t5: EncoderDecoderModel) -> None:
    with pytest.raises(ConfigError, match="SummarizationPipeline does summarization, not translation_en_to_de"):
        SummarizationPipeline(t5, task="translation_en_to_de")


@pytest.mark.parametrize("held", [["a"], {"summarization": 3}])
def test_a_damaged_config_is_named(folders: dict[str, Path], held: Any) -> None:
    model = EncoderDecoderModel.from_pretrained(folders["t5"], task_specific_params=held)
    with pytest.raises(ConfigError, match=r"config\.json: task_specific_params"):
        pipeline("summarization", model)


def test_settings_of_a_task_that_generate_does_not_know_are_warned_of(folders: dict[str, Path]) -> None:
    held = {"summarization": {"num_beams": 2, "beam_width": 3}}
    model = EncoderDecoderModel.from_pretrained(folders["t5"], task_specific_params=held)
    with pytest.warns(ConjoinWarning, match="task_specific_params of summarization: no effect of beam_width"):
        pipe = pipeline("summarization", model)
    assert pipe.generation_config.num_beams == 2


def test_a_named_tokenizer_of_a_folder_without_one_is_an_error(tmp_path: Path, t5: EncoderDecoderModel) -> None:
    with pytest.raises((TokenizerError, OSError)):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises((TokenizerError, OSError)):
        pipeline("summarization", t5, tokenizer=str(tmp_path))
