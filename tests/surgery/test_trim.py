"""Fewer tokens: every kind of tokenizer; the same tokens and words for texts of the corpus; ids wherever they stand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import (
    AutoTokenizer,
    BartConfig,
    BertConfig,
    ConfigError,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    FileError,
    RobertaConfig,
    T5Config,
    T5Gemma2Config,
    T5GemmaConfig,
    TokenizerError,
    TokenizerPair,
    trim,
)
from conjoin.surgery.ids import ids_in_use, with_new_ids
from conjoin.tokenizer.trimming import TrimmableVocabulary
from lanes import lanes
from pairs import SMALL, stir
from tokenizer_samples import ODD, RAW, SENTENCES, raw_folder

SEEN, OTHERS = SENTENCES[:3], SENTENCES[3:] + ODD
BERT: dict[str, Any] = {**SMALL, "hidden_size": 20, "num_attention_heads": 5, "max_position_embeddings": 200}
PADDED = 5
"""Rows of the models' matrices that no token has."""


def kind_pair(folder: Path, source: str, target: str, config: Any = BertConfig, **values: Any) -> EncoderDecoderModel:
    """A random pair of BERTs with the tokenizers of two kinds, saved."""
    reader, writer = (AutoTokenizer.from_pretrained(raw_folder(k, folder / f"{k}-raw")) for k in (source, target))
    writer = reader if source == target else writer
    sizes = [len(tokenizer) + PADDED for tokenizer in (reader, writer)]
    pad = writer.pad_token_id
    ids = {"decoder_start_token_id": 3, "pad_token_id": 2 if pad is None else pad, "eos_token_id": 1}
    encoder = config(vocab_size=sizes[0], pad_token_id=reader.pad_token_id, **BERT)
    pair = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, BertConfig(vocab_size=sizes[1], **BERT), **ids, **values
    )
    model = stir(EncoderDecoderModel(config=pair), 0.5)
    model.tokenizer = TokenizerPair(reader, writer, target_eos=writer.end_token_id is not None)
    model.save_pretrained(folder / "model")
    return model


def rows(texts: list[str] = SEEN) -> list[dict[str, str]]:
    return [{"source": text, "target": text[::-1] if index else text} for index, text in enumerate(texts)]


def kept_ids(old: Any, new: Any) -> list[int]:
    """Old ids of a trimmed tokenizer's tokens, in their new order."""
    vocab = old.get_vocab()
    return [vocab[token] for token, _ in sorted(new.get_vocab().items(), key=lambda item: item[1])]


@pytest.mark.parametrize("kind", lanes(RAW, {"bert", "gpt2", "roberta", "t5", "llama", "mbart50"}.__contains__))
def test_texts_of_the_corpus_have_the_same_tokens_and_others_can_be_read(tmp_path: Path, kind: str) -> None:
    model = kind_pair(tmp_path, kind, kind)
    trim(tmp_path / "model", tmp_path / "small", rows())
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    for side, texts in (("source", SEEN), ("target", [row["target"] for row in rows()])):
        old, new = getattr(model.tokenizer, side), getattr(small.tokenizer, side)
        kept = kept_ids(old, new)
        assert kept == sorted(kept) and len(kept) < len(old)
        for text in texts:
            assert [kept[i] for i in new(text)["input_ids"]] == old(text)["input_ids"]
            assert new.tokenize(text) == old.tokenize(text)
        for text in OTHERS:
            was, now = old(text, verbose=False)["input_ids"], new(text, verbose=False)["input_ids"]
            assert new.decode(now, skip_special_tokens=True) == old.decode(was, skip_special_tokens=True)
            assert now.count(new.unk_token_id) <= was.count(old.unk_token_id) or new.unk_token_id == new.eos_token_id
        assert new.special_tokens_map == old.special_tokens_map
        assert list(new.get_added_vocab()) == list(old.get_added_vocab())


@pytest.mark.parametrize(("source", "target"), [("bert", "gpt2"), ("t5", "llama"), ("roberta", "xlm-roberta")])
def test_logits_of_kept_tokens_are_the_same_and_greedy_writes_the_same(
    tmp_path: Path, source: str, target: str
) -> None:
    model = kind_pair(tmp_path, source, target, RobertaConfig if source == "roberta" else BertConfig)
    change = trim(tmp_path / "model", tmp_path / "small", rows())
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    assert change.numbers == (model.num_parameters(), small.num_parameters())
    assert "source: " in str(change) and "tokens are kept" in str(change)
    kept = kept_ids(model.tokenizer.target, small.tokenizer.target)
    written = [row["target"] for row in rows()]
    before = model.tokenizer(SEEN, text_target=written, padding=True, return_tensors="pt")
    after = small.tokenizer(SEEN, text_target=written, padding=True, return_tensors="pt")
    expected = model(**before).logits[..., kept]
    torch.testing.assert_close(small(**after).logits, expected, rtol=0, atol=0)
    dropped = sorted(set(range(model.spec.decoder.vocab_size)) - set(kept))
    inputs = {name: before[name] for name in ("input_ids", "attention_mask")}
    theirs = model.generate(**inputs, suppress_tokens=dropped, max_new_tokens=8)
    ours = small.generate(after["input_ids"], attention_mask=after["attention_mask"], max_new_tokens=8)
    assert [[kept[i] for i in row] for row in ours.tolist()] == theirs.tolist()
    assert small.tokenizer.batch_decode(ours) == model.tokenizer.batch_decode(theirs)


def test_a_shared_table_keeps_the_tokens_of_both_sides(tmp_path: Path) -> None:
    model = kind_pair(tmp_path, "bert", "bert", share="embeddings")
    trim(tmp_path / "model", tmp_path / "small", [{"source": SEEN[0], "target": SEEN[1]}])
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    assert small.encoder.embed.words.weight is small.decoder.embed.words.weight
    assert small.tokenizer.source.get_vocab() == small.tokenizer.target.get_vocab()
    for text in SEEN[:2]:
        assert small.tokenizer.source.tokenize(text) == model.tokenizer.source.tokenize(text)
    trim(tmp_path / "model", tmp_path / "less", [{"source": SEEN[0], "target": SEEN[0]}])
    assert (
        EncoderDecoderModel.from_pretrained(tmp_path / "less").spec.encoder.vocab_size < small.spec.encoder.vocab_size
    )
    model = kind_pair(tmp_path / "two", "bert", "bert-cased")
    path = tmp_path / "two" / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "conjoin": {"share": "embeddings"}}))
    with pytest.raises(ConfigError, match="different vocabularies"):
        trim(tmp_path / "two" / "model", tmp_path / "other", rows())


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_whole_model_has_one_vocabulary(tmp_path: Path, kind: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(raw_folder(kind, tmp_path / "raw"))
    small: dict[str, Any] = {"vocab_size": len(tokenizer) + PADDED, "d_model": 20}
    bart = {"encoder_ffn_dim": 9, "decoder_ffn_dim": 9, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 200}
    t5 = {"d_kv": 4, "num_heads": 5, "d_ff": 9, "num_layers": 1, "decoder_start_token_id": 0}
    config: Any = BartConfig(**small, **bart, **layers) if kind == "bart" else T5Config(**small, **t5)
    model = stir(EncoderDecoderModel(config=config), 0.5)
    model.tokenizer = tokenizer
    model.generation_config.forced_eos_token_id = 2
    with torch.no_grad():
        if model.decoder.head.bias is not None:
            model.decoder.head.bias.normal_()
    model.save_pretrained(tmp_path / "model")
    trim(tmp_path / "model", tmp_path / "small", rows())
    trimmed = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    kept = kept_ids(tokenizer, trimmed.tokenizer)
    before, after = (
        t(SEEN, text_target=SEEN, padding=True, return_tensors="pt") for t in (tokenizer, trimmed.tokenizer)
    )
    for batch in (before, after):
        batch["labels"][batch["labels"] == config.pad_token_id] = -100
    torch.testing.assert_close(trimmed(**after).logits, model(**before).logits[..., kept], rtol=0, atol=0)
    assert trimmed.config.vocab_size == len(kept) < config.vocab_size
    assert trimmed.generation_config.forced_eos_token_id == kept.index(2)


@pytest.mark.parametrize("kind", [T5GemmaConfig, T5Gemma2Config])
def test_configs_within_a_config_get_new_ids_and_sizes(tmp_path: Path, kind: Any) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(raw_folder("gemma", tmp_path / "raw"))
    half: dict[str, Any] = {"vocab_size": len(tokenizer) + PADDED, "hidden_size": 20, "intermediate_size": 9}
    half |= {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    image_end = tokenizer("e")["input_ids"][-1]
    around = {"text_config": half, "eoi_token_index": image_end, "boi_token_index": 4, "image_token_index": 5}
    model = stir(EncoderDecoderModel(config=kind(encoder=half if kind is T5GemmaConfig else around, decoder=half)), 0.5)
    model.tokenizer = TokenizerPair(tokenizer, tokenizer)
    model.save_pretrained(tmp_path / "model")
    trim(tmp_path / "model", tmp_path / "small", rows())
    trimmed = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    kept = kept_ids(tokenizer, trimmed.tokenizer.source)
    assert trimmed.spec.encoder.vocab_size == trimmed.spec.decoder.vocab_size == len(kept) < half["vocab_size"]
    if kind is T5Gemma2Config:
        assert trimmed.config.encoder.eoi_token_index == kept.index(image_end)
    before, after = (
        each.tokenizer(SEEN, text_target=SEEN, padding=True, return_tensors="pt") for each in (model, trimmed)
    )
    torch.testing.assert_close(trimmed(**after).logits, model(**before).logits[..., kept], rtol=0, atol=0)


def test_ids_in_settings_get_new_numbers_and_rules_about_dropped_tokens_go() -> None:
    settings = {
        "eos_token_id": [5, 9],
        "pad_token_id": None,
        "forced_bos_token_id": 7,
        "bad_words_ids": [[5, 9], [5, 6]],
        "suppress_tokens": [6, 7],
        "begin_suppress_tokens": [6],
        "sequence_bias": [[[9], 2.0], [[6], 1.0]],
        "force_words_ids": [[7], [[9, 5]]],
        "forced_decoder_ids": [[1, 9]],
        "task_specific_params": {"x": {"decoder_start_token_id": 11}},
        "num_beams": 5,
    }
    assert ids_in_use(settings) == {5, 7, 9, 11}
    assert with_new_ids(settings, {5: 0, 7: 1, 9: 2, 11: 3}) == {
        "eos_token_id": [0, 2],
        "pad_token_id": None,
        "forced_bos_token_id": 1,
        "bad_words_ids": [[0, 2]],
        "suppress_tokens": [1],
        "begin_suppress_tokens": [],
        "sequence_bias": [[[2], 2.0]],
        "force_words_ids": [[1], [[2, 0]]],
        "forced_decoder_ids": [[1, 2]],
        "task_specific_params": {"x": {"decoder_start_token_id": 3}},
        "num_beams": 5,
    }


def test_settings_and_languages_follow_their_tokens(tmp_path: Path) -> None:
    model = kind_pair(tmp_path, "mbart", "mbart50")
    target = model.tokenizer.target
    ids = [target.convert_tokens_to_ids(token) for token in ("fr_XX", "de_DE")]
    model.generation_config.forced_bos_token_id = ids[0]
    model.generation_config.bad_words_ids = [[ids[1]]]
    model.save_pretrained(tmp_path / "model")
    trim(tmp_path / "model", tmp_path / "small", rows())
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    new = [small.tokenizer.target.convert_tokens_to_ids(token) for token in ("fr_XX", "de_DE")]
    assert new != ids and small.generation_config.forced_bos_token_id == new[0]
    assert small.generation_config.bad_words_ids == [[new[1]]]
    assert small.tokenizer.source.src_lang == "de_DE" and small.tokenizer.source.tgt_lang == "en_XX"


def test_chat_templates_keep_the_words_that_they_write(tmp_path: Path) -> None:
    model = kind_pair(tmp_path, "bert", "qwen2")
    template = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n'}}ångström{% endfor %}"
    model.tokenizer.target.init_kwargs["chat_template"] = template
    model.save_pretrained(tmp_path / "model")
    trim(tmp_path / "model", tmp_path / "small", [{"source": "a", "target": "a"}])
    new: Any = AutoTokenizer.from_pretrained(tmp_path / "small")
    assert new.target.init_kwargs["chat_template"] == template
    assert new.target.tokenize("ångström") == model.tokenizer.target.tokenize("ångström")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_the_size_may_be_chosen(tmp_path: Path, kind: str) -> None:
    model = kind_pair(tmp_path, kind, kind)
    sizes: list[int] = []
    for name, options in {
        "seen": {},
        "often": {"min_count": 3},
        "size": {"keep_size": len(model.tokenizer.source) - 2},
        "round": {"pad_to_multiple_of": 64},
        "more": {"keep": [OTHERS[3], "the"]},
    }.items():
        change = trim(tmp_path / "model", tmp_path / name, rows(), **options)
        small: Any = EncoderDecoderModel.from_pretrained(tmp_path / name)
        sizes.append(small.spec.encoder.vocab_size)
        assert len(small.tokenizer.source) == sizes[-1]
        assert ("have other tokens now" in str(change)) == (name in ("often", "size"))
    seen, often, size, multiple, more = sizes
    assert often <= seen <= more and (kind == "t5" or often < seen < more)  # most of that small T5 is letters
    assert size == len(model.tokenizer.source) - 2 and multiple % 64 == 0 and 0 <= multiple - seen < 64
    assert small.tokenizer.source.tokenize(OTHERS[3]) == model.tokenizer.source.tokenize(OTHERS[3])
    with pytest.raises(ConfigError, match="must stay"):
        trim(tmp_path / "model", tmp_path / "tiny", rows(), keep_size=20)
    with pytest.raises(ConfigError, match="min_count = 0"):
        trim(tmp_path / "model", tmp_path / "tiny", rows(), min_count=0)


def test_a_single_model_is_trimmed_too(tmp_path: Path) -> None:
    from conjoin.torch.pair.halves import Encoder
    from pairs import with_tokenizer

    folder = with_tokenizer(tmp_path / "bert", "bert")
    trim(folder, tmp_path / "small", rows())
    old, new = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path / "small")
    states = [
        Encoder.from_pretrained(f)(**t(SEEN[:1], return_tensors="pt")).last_hidden_state
        for f, t in ((folder, old), (tmp_path / "small", new))
    ]
    assert len(new) < len(old)
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_tokenizers_of_bytes_are_refused_with_a_reason(tmp_path: Path) -> None:
    from conjoin import ByT5Tokenizer

    tokenizer = ByT5Tokenizer.from_pretrained(tmp_path)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=20, d_kv=4, num_heads=5, d_ff=9, num_layers=1, decoder_start_token_id=0
    )
    model = EncoderDecoderModel(config=config)
    model.tokenizer = tokenizer
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(TokenizerError, match="single bytes or characters"):
        trim(tmp_path / "model", tmp_path / "small", rows())


def test_what_decides_unknown_text_stays() -> None:
    model = {
        "type": "Unigram",
        "unk_id": 0,
        "vocab": [["<unk>", 0.0], ["a", -1.0], ["bc", -9.0], ["b", -2.0], ["de", -3]],
    }
    document: Any = {"model": model, "added_tokens": [], "post_processor": None}
    vocabulary = TrimmableVocabulary(document, "x")
    assert vocabulary.required == {0, 1, 2, 3}
    assert vocabulary.trimmed([0, 1, 2, 3])["model"]["vocab"] == model["vocab"][:4]
    with pytest.raises(TokenizerError, match="the id 7 must be kept, but no token has it") as error:
        TrimmableVocabulary({**document, "added_tokens": [{"id": 9, "content": "x"}]}, "x").trimmed([0, 7, 9])
    del error


def test_a_token_of_a_bpe_is_kept_with_all_that_it_is_made_of() -> None:
    vocab = {token: index for index, token in enumerate(["a", "b", "c", "ab", "bc", "abc", "ca", "<0x41>"])}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": ["a b", "b c", "ab c", ["a", "bc"], "c a"]}
    vocabulary = TrimmableVocabulary({"model": model, "added_tokens": [], "post_processor": None}, "x")
    assert vocabulary.closed([5]) == {0, 1, 2, 3, 4, 5}
    trimmed = vocabulary.trimmed(vocabulary.closed([5]))["model"]
    assert trimmed["merges"] == ["a b", "b c", "ab c", ["a", "bc"]] and len(trimmed["vocab"]) == 6
    assert vocabulary.trimmed(vocabulary.closed([6]))["model"]["merges"] == ["c a"]


def test_the_command_trims_by_files(tmp_path: Path, run: Any) -> None:
    kind_pair(tmp_path, "bert", "gpt2")
    data, lines, keep = tmp_path / "train.jsonl", tmp_path / "more.txt", tmp_path / "keep.txt"
    data.write_text("".join(json.dumps({"a": row["source"], "target": row["target"]}) + "\n" for row in rows()))
    lines.write_text(f"{OTHERS[0]}\n\n")
    keep.write_text("the\n##e\n")
    options = ("--source-column", "a", "--keep", keep, "--keep", "quick", "--json")
    told = run("trim", tmp_path / "model", "--texts", data, "--texts", lines, *options, "--out", tmp_path / "small")
    assert told.code == 0 and "parameters:" in told.err
    numbers = json.loads(told.out)["parameters"]
    assert numbers["after"] < numbers["before"]
    assert run("trim", tmp_path / "model", "--texts", data, "--out", tmp_path / "model").code == 1
    with pytest.raises(FileError, match="the model that is read"):
        trim(tmp_path / "model", tmp_path / "model", str(lines))
    with pytest.raises(ConfigError, match="no texts"):
        trim(tmp_path / "model", tmp_path / "other", [])
