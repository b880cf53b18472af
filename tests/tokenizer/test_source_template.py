"""Prompts around sources: rendered as transformers does, kept whole where sources are cut, saved with the model."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, pre_tokenizers

import oracle
from conjoin import AutoTokenizer, BartConfig, TokenizerPair, trim
from conjoin.errors import TokenizerError
from conjoin.evaluation.texts import generate_texts, tokenize_sources
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.cache import tokenizer_digest
from tokenizer_samples import raw_folder, write_json

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ["a black cat", " it rains\n", "Über 7 %"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of single bytes, with a chat template, and a tiny Llama beside it."""
    path = tmp_path_factory.mktemp("chat")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = [("t", "h"), ("th", "e"), ("a", "t")]
    pieces = [*special, *map("".join, merges), *alphabet]
    rust = Rust(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(special)
    rust.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, "bos_token": "<|im_start|>"}
    write_json(path / "tokenizer_config.json", config | {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"})
    size = len(pieces)
    tiny = {**oracle.TINY["llama"], "vocab_size": size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    oracle.save_config_of("llama", tiny, path)
    return path


def pair_of(folder: Path, template: str, **options: Any) -> TokenizerPair:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return TokenizerPair(tokenizer, tokenizer, source_template=template, **options)


def test_a_text_with_the_source_in_it(folder: Path) -> None:
    plain, pair = AutoTokenizer.from_pretrained(folder), pair_of(folder, "Text: {source}\nSummary:")
    expected = plain([f"Text: {text}\nSummary:" for text in TEXTS], padding=True)
    assert dict(pair(TEXTS, padding=True)) == dict(expected)
    assert pair(TEXTS[0])["input_ids"] == plain(f"Text: {TEXTS[0]}\nSummary:")["input_ids"]


def test_the_chat_template_is_rendered_as_transformers_does(folder: Path) -> None:
    theirs = oracle.reload_tokenizer(folder)
    for template, turn in (("chat", "{}"), ("chat: Shorten this: {source} Thanks.", "Shorten this: {} Thanks.")):
        pair = pair_of(folder, template)
        for text in TEXTS:
            messages = [{"role": "user", "content": turn.format(text)}]
            rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            expected = theirs(rendered, add_special_tokens=False)["input_ids"]
            assert pair(text)["input_ids"] == expected, (template, text)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_source_is_cut_and_never_the_template(folder: Path, side: str) -> None:
    pair = pair_of(folder, "Text: {source}\nSummary:")
    pair.source.truncation_side = side
    alone = len(pair("")["input_ids"])
    text = "abcdefghij"
    ids = pair([text, "ab"], truncation=True, max_length=alone + 4)["input_ids"]
    cut = text[:4] if side == "right" else text[-4:]
    assert pair.source.batch_decode(ids) == [f"Text: {cut}\nSummary:", "Text: ab\nSummary:"]
    assert len(ids[0]) == alone + 4
    with pytest.raises(TokenizerError, match=f"max_length = {alone} leaves no room"):
        pair([text], truncation=True, max_length=alone)
    (source,) = tokenize_sources(pair, [(0, text)], alone + 4)
    assert source.cut
    assert source.ids == ids[0]


def test_offsets_are_those_of_the_source(folder: Path) -> None:
    pair = pair_of(folder, "> {source}\n")
    spans = pair("a cow", return_offsets_mapping=True)["offset_mapping"]
    assert [tuple(span) for span in spans] == [(0, 0), (0, 0), *((at, at + 1) for at in range(5)), (0, 0)]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("Summary:", r"has \{source\} 0 times"),
        ("{source} {source}", r"has \{source\} 2 times"),
        ("chat: Summarise.", r"has \{source\} 0 times"),
        (7, "source_template = '7', expected str"),
    ],
)
def test_bad_templates_are_refused(folder: Path, template: Any, problem: str) -> None:
    with pytest.raises(TokenizerError, match=problem):
        pair_of(folder, template)


def test_chat_needs_a_chat_template(folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.init_kwargs.pop("chat_template")
    with pytest.raises(TokenizerError, match="has no chat template"):
        TokenizerPair(tokenizer, tokenizer, source_template="chat")
    tokenizer.init_kwargs["chat_template"] = "{{ raise_exception('only tools') }}"
    with pytest.raises(TokenizerError, match="cannot be used: only tools"):
        TokenizerPair(tokenizer, tokenizer, source_template="chat")


DATED = (
    "{% set today = strftime_now('%d %B %Y') %}<|im_start|>Today is {{ today }}.\n{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_end|>{% endif %}"
)
"""As SmolLM3's and Granite's: the day, and what the assistant says marked for training."""


def test_a_chat_template_that_writes_the_day_keeps_it(folder: Path, tmp_path: Path) -> None:
    """A model must read tomorrow what it was trained on."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.init_kwargs["chat_template"] = DATED
    today = datetime.now().date().isoformat()
    pair = TokenizerPair(tokenizer, tokenizer, source_template="chat")
    assert pair.source_rules.template_date in (today, datetime.now().date().isoformat())
    old = TokenizerPair(tokenizer, tokenizer, source_template="chat", template_date="2024-02-29")
    assert old.source.decode(old("a black cat")["input_ids"]).startswith("<|im_start|>Today is 29 February 2024.\n")
    old.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.source_rules == old.source_rules and again(TEXTS) == old(TEXTS) != pair(TEXTS)
    with pytest.raises(TokenizerError, match="template_date = 'Monday'; expected a day"):
        TokenizerPair(tokenizer, tokenizer, source_template="chat", template_date="Monday")
    plain = TokenizerPair(tokenizer, tokenizer, source_template="{source} the", template_date="2024-02-29")
    assert plain.source_rules.template_date is None


def test_a_template_that_is_set_again_keeps_its_day(folder: Path) -> None:
    pair = joined(folder, "{source} the")
    pair.tokenizer.source.init_kwargs["chat_template"] = DATED
    pair.set_source_template("chat", date="2024-02-29")
    pair.set_source_template("chat")
    assert pair.tokenizer.source_rules.template_date == "2024-02-29"
    pair.set_source_template("chat: Shorten: {source}")
    assert pair.tokenizer.source_rules.template_date == datetime.now().date().isoformat()


def test_such_a_template_is_rendered_as_transformers_does(folder: Path) -> None:
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), oracle.reload_tokenizer(folder)
    tokenizer.init_kwargs["chat_template"] = theirs.chat_template = DATED
    pair = TokenizerPair(tokenizer, tokenizer, source_template="chat")
    rendered = theirs.apply_chat_template(
        [{"role": "user", "content": "a black cat"}], add_generation_prompt=True, tokenize=False
    )
    assert pair("a black cat")["input_ids"] == theirs(rendered, add_special_tokens=False)["input_ids"]


def test_another_template_makes_other_training_data(folder: Path) -> None:
    digests = [tokenizer_digest(pair_of(folder, template)) for template in ("{source}\n", "{source}:", "{source}:")]
    assert digests[0] != digests[1] == digests[2]


def test_it_is_saved_with_the_pair(folder: Path, tmp_path: Path) -> None:
    pair = pair_of(folder, "chat", target_start_id=40)
    pair.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_pair.json").read_text())["source_template"] == "chat"
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.source_rules == pair.source_rules
    assert again(TEXTS) == pair(TEXTS)


def joined(folder: Path, template: str, share: str = "all") -> EncoderDecoderModel:
    return EncoderDecoderModel.from_encoder_decoder_pretrained(
        folder, folder, cross_attention_init="layerwise", share=share, source_template=template
    )


@pytest.mark.parametrize("template", ["{source}\\nSummary:", "chat"])
def test_a_layerwise_pair_reads_template_and_target_as_one_text(folder: Path, tmp_path: Path, template: str) -> None:
    """The template's last token starts the target, so that source and start are what the LM would read."""
    pair = joined(folder, template)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = TokenizerPair(tokenizer, tokenizer, source_template=template.replace("\\n", "\n"))(TEXTS)["input_ids"]
    start = pair.config.decoder_start_token_id
    assert {row[-1] for row in whole} == {start}
    assert pair.tokenizer(TEXTS)["input_ids"] == [row[:-1] for row in whole]
    lengths = [len(row) for row in pair.tokenizer(TEXTS, truncation=True, max_length=60)["input_ids"]]
    assert lengths == [min(len(row) - 1, 60) for row in whole]
    theirs = oracle.reload_decoder(folder)
    written = generate_texts(pair, TEXTS)
    pair.save_pretrained(tmp_path / "pair")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "pair")
    assert again.generation_config.decoder_start_token_id in (None, start)
    assert generate_texts(again, TEXTS) == written
    batch = again.tokenizer(TEXTS, padding=True, return_tensors="pt")
    ours = again.generate(**batch, max_new_tokens=5, min_new_tokens=5)
    for row, ids in zip(ours.tolist(), whole, strict=True):
        expected = oracle.greedy_of_prompt(theirs, ids, 5)
        assert row == [ids[-1], *expected]


def test_trim_renumbers_the_start_and_keeps_the_template(folder: Path, tmp_path: Path) -> None:
    pair = joined(folder, "the text: {source}\nSummary:")
    pair.save_pretrained(tmp_path / "pair")
    trim(tmp_path / "pair", tmp_path / "small", [{"source": "black", "target": "bird"}])
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    assert small.spec.decoder.vocab_size == pair.spec.decoder.vocab_size - 1  # "at" is gone, "the" is the template's
    start = small.config.decoder_start_token_id
    assert small.tokenizer.target.decode([start]) == ":"
    assert small.tokenizer.source_rules.target_start_id == start != pair.config.decoder_start_token_id
    ids, before = small.tokenizer("black")["input_ids"], pair.tokenizer("black")["input_ids"]
    assert small.tokenizer.source.decode(ids) == pair.tokenizer.source.decode(before)
    assert len(ids) == len(before)


@pytest.mark.parametrize("share", ["all", "embeddings", "none"])
def test_the_start_has_one_number_in_both_halves(share: str, folder: Path, tmp_path: Path) -> None:
    """Sources need a token that targets do not: halves trimmed apart would number all later ones differently."""
    pair = joined(folder, "{source}\nSummary:", share)
    pair.save_pretrained(tmp_path / "pair")
    trim(tmp_path / "pair", tmp_path / "small", [{"source": "at", "target": "bird"}])
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    start = small.tokenizer.source_rules.target_start_id
    assert small.config.decoder_start_token_id == start
    assert small.tokenizer.source.decode([start]) == pair.tokenizer.source.decode([pair.config.decoder_start_token_id])
    for text in ("at", "bird"):
        ids, before = small.tokenizer(text)["input_ids"], pair.tokenizer(text)["input_ids"]
        assert small.tokenizer.source.decode(ids) == pair.tokenizer.source.decode(before)


def test_one_tokenizer_makes_the_labels_that_it_made_before(tmp_path: Path) -> None:
    """Of a whole model, whose labels begin with what its tokenizer puts first."""
    model = whole_bart(tmp_path)
    before = model.tokenizer(text_target=["the bird", "black"])["input_ids"]
    plain = model.tokenizer("the bird")["input_ids"]
    model.set_source_template("black {source}")
    assert model.tokenizer(text_target=["the bird", "black"])["input_ids"] == before
    assert model.tokenizer("the bird")["input_ids"] != plain
    model.save_pretrained(tmp_path / "saved")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "saved")
    assert again.tokenizer(text_target=["the bird", "black"])["input_ids"] == before


def whole_bart(folder: Path) -> Any:
    """A whole model, and the one tokenizer of its folder."""
    raw_folder("roberta", folder / "bart")
    tokenizer = AutoTokenizer.from_pretrained(folder / "bart")
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    config = BartConfig(vocab_size=len(tokenizer), d_model=16, **layers, **heads)
    model = EncoderDecoderModel(config=config)
    model.tokenizer = tokenizer
    return model


def test_an_older_tokenizers_settings_do_not_change_a_newer_one(folder: Path, tmp_path: Path) -> None:
    """As transformers 4 writes them beside tokenizer_config.json."""
    pair = joined(folder, "{source} the")
    out = tmp_path / "pair"
    out.mkdir()
    (out / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<other>"}))
    (out / "added_tokens.json").write_text(json.dumps({"<other>": 900}))
    (out / "chat_template.jinja").write_text("{{ messages }}")
    (out / "notes.txt").write_text("mine")
    pair.save_pretrained(out)
    again = EncoderDecoderModel.from_pretrained(out).tokenizer
    assert again.source.get_vocab() == pair.tokenizer.source.get_vocab()
    assert again.pad_token == pair.tokenizer.pad_token
    assert again.source.init_kwargs.get("chat_template") == pair.tokenizer.source.init_kwargs.get("chat_template")
    assert (out / "notes.txt").read_text() == "mine"


def test_the_last_token_must_not_depend_on_the_source(folder: Path) -> None:
    with pytest.raises(TokenizerError, match="the last token depends on the source"):
        joined(folder, "Text: {source}")


def test_other_pairs_keep_their_start(folder: Path) -> None:
    pair = EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, source_template="{source}\nSummary:")
    assert pair.config.decoder_start_token_id == 1
    assert pair.tokenizer("ab")["input_ids"] == pair.tokenizer.source("ab\nSummary:")["input_ids"]
