"""Texts in many scripts, and folders of tokenizer files trained on them: what the tokenizer tests build on."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from conjoin.tokenizer.m2m100 import M2M100_LANGUAGES, WMT21_LANGUAGES
from conjoin.tokenizer.nllb import NLLB_LANGUAGES
from conjoin.tokenizer.wordbpe import merge

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, isn't it? I'm sure they've said: don't!",
    "Café à la crème, naïve façade, Ångström and Żółć; el niño comió jalapeños.",
    "Die Straße führt über den Fluß; Äpfel, Öl und Übermut für 3,50 EUR.",
    "Съешь ещё этих мягких французских булок, да выпей же чаю.",
    "我能吞下玻璃而不伤身体。中文分词很有意思！",
    "私はガラスを食べられます。それは私を傷つけません。カタカナ",
    "أنا قادر على أكل الزجاج و هذا لا يؤلمني.",
    "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती.",
    "저는 유리를 먹을 수 있어요. 그래도 아프지 않아요",
    "Numbers 1234567890, 3.14159 and 1,000,000; e-mail: someone@example.org http://a.b/c?d=e&f=g",
    "def f(x):\n\treturn {'a': x**2, \"b\": [1, 2]}  # comment",
]

ODD = [
    "",
    " ",
    "   ",
    "\n",
    "\t\t",
    "a",
    " leading space",
    "trailing space ",
    "many    spaces   inside  ",
    "tab\tand\nnewline\r\nand\r return",
    "no\u00a0break\u00a0space \u3000ideographic\u2003em",
    "zero\u200bwidth\u200djoiner\ufeffbom soft\u00adhyphen",
    "e\u0301 versus \u00e9, a\u0308 versus \u00e4, \u0915\u094d\u0937",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd thumb, \U0001f1e9\U0001f1ea flag",
    "control\x00\x01\x1f\x7f\x85chars",
    "\ufffd replacement \ufb01 ligature \u2460 \u216b \u00bd \uff21\uff22\uff23",
    "``quoted'' 'single' \u201ccurly\u201d \u2014 dash\u2026",
    "UPPER lower MiXeD \u0130stanbul \u1e9e \u03a3\u03c3\u03c2",
    "[CLS] in text [SEP] and [MASK] [PAD] [UNK]",
    "<s> in text </s> and<mask>here <pad> <unk> <|endoftext|> <bos><eos>",
    "<extra_id_0> sentinel <extra_id_1>. en_XX de_DE",
    "\u2581visible\u2581space \u2581 \u0120 \u010a",
    "a . b , c ? d ! do n't I 'm it 's we 've they 're ' x '",
    "x" * 120,
    "\u0e44\u0e17\u0e22\u0e44\u0e21\u0e48\u0e21\u0e35\u0e0a\u0e48\u0e2d\u0e07\u0e27\u0e48\u0e32\u0e07",
]

TEXTS = SENTENCES + ODD
CORPUS = SENTENCES * 4

BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_json(path: Path, value: Any) -> None:
    """Write one settings file."""
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


@cache
def wordpiece_lines(lowercase: bool) -> tuple[str, ...]:
    """The lines of a small vocab.txt."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=420, special_tokens=BERT_TOKENS, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tuple(sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__))


def write_wordpiece(folder: Path, *, lowercase: bool = True) -> None:
    """Write vocab.txt."""
    (folder / "vocab.txt").write_text("\n".join(wordpiece_lines(lowercase)) + "\n", encoding="utf-8")


@cache
def byte_level_files(special: tuple[str, ...]) -> tuple[str, str]:
    """The contents of vocab.json and merges.txt of a small byte-level BPE."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(CORPUS, vocab_size=480, special_tokens=list(special), show_progress=False)
    document = json.loads(tokenizer.to_str())
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in document["model"]["merges"]]
    vocab = json.dumps(document["model"]["vocab"], ensure_ascii=False)
    return vocab, "#version: 0.2\n" + "\n".join(merges) + "\n"


def write_byte_level(folder: Path, special: Iterable[str]) -> None:
    """Write vocab.json and merges.txt."""
    vocab, merges = byte_level_files(tuple(special))
    (folder / "vocab.json").write_text(vocab, encoding="utf-8")
    (folder / "merges.txt").write_text(merges, encoding="utf-8")


@cache
def spm_bytes(**options: Any) -> bytes:
    """A SentencePiece model, trained with `options` on the sample."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return out.getvalue()


def write_spm(folder: Path, name: str, **options: Any) -> None:
    """Write a SentencePiece model under `name`."""
    (folder / name).write_bytes(spm_bytes(**options))


def _bert(folder: Path, **config: Any) -> None:
    write_wordpiece(folder, lowercase=config.get("do_lower_case", True))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **config})


def _byte_level(folder: Path, name: str, special: list[str], **config: Any) -> None:
    write_byte_level(folder, special)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **config})


@cache
def _gpt_files() -> tuple[str, str]:
    """The contents of vocab.json and merges.txt of a BPE of lower-case words whose ends are marked."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    return json.dumps(model["vocab"], ensure_ascii=False), f"#version: 0.2\n{merges}"


def _gpt(folder: Path) -> None:
    """The files of openai-community/openai-gpt."""
    for name, text in zip(("vocab.json", "merges.txt"), _gpt_files(), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "OpenAIGPTTokenizer", "model_max_length": 512})


def _mpnet(folder: Path) -> None:
    lines = ["<s>", "<pad>", "</s>", "<unk>", *wordpiece_lines(lowercase=True), "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "MPNetTokenizer"})


def _nllb(folder: Path, **config: Any) -> None:
    """The files of facebook/nllb-200-*, whose tokenizer_config.json lists the ids after the vocabulary."""
    write_spm(folder, "sentencepiece.bpe.model", **NLLB_SPM)
    size = spm_size(**NLLB_SPM)
    rules = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    listed = [(index, token) for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>"])]
    listed += [(size + 1 + index, code) for index, code in enumerate(NLLB_LANGUAGES)]
    added = {str(index): {"content": token, **rules} for index, token in listed}
    added[str(size + 1 + len(NLLB_LANGUAGES))] = {"content": "<mask>", **rules, "lstrip": True, "normalized": True}
    more = {"added_tokens_decoder": added, "additional_special_tokens": list(NLLB_LANGUAGES)}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "NllbTokenizer", **more, **config})


def spm_pieces(**options: Any) -> list[str]:
    """The pieces of a SentencePiece model, in the order of their ids."""
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromSerializedProto(spm_bytes(**options))
    return [model.IdToPiece(index) for index in range(spm_size(**options))]


def spm_size(**options: Any) -> int:
    """The number of pieces of a SentencePiece model."""
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromSerializedProto(spm_bytes(**options))
    return model.GetPieceSize()


def _spm(folder: Path, name: str, file: str, spm: dict[str, Any], **config: Any) -> None:
    write_spm(folder, file, **spm)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **config})


UNIGRAM = {"model_type": "unigram", "vocab_size": 400}
T5_SPM = {**UNIGRAM, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT_SPM = {
    **UNIGRAM,
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "control_symbols": "[CLS],[SEP]",
    "user_defined_symbols": "[MASK]",
}
DEBERTA_SPM = {
    **UNIGRAM,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "pad_piece": "[PAD]",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
    "unk_piece": "[UNK]",
}
PEGASUS_SPM = {**UNIGRAM, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
BIGBIRD_SPM = {
    **UNIGRAM,
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "user_defined_symbols": "[CLS],[SEP],[MASK]",
}
NLLB_SPM = {"model_type": "bpe", "vocab_size": 420}
BPE_SPM = {"model_type": "bpe", "vocab_size": 520, "byte_fallback": True, "normalization_rule_name": "identity"}
GEMMA_SPM = {
    **BPE_SPM,
    "vocab_size": 560,
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "bos_piece": "<bos>",
    "eos_piece": "<eos>",
    "user_defined_symbols": "<mask>,<start_of_turn>,<end_of_turn>",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
}
MASK = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False}

# name -> writes a folder of raw vocabulary files, as old checkpoints have them
RAW: dict[str, Callable[[Path], None]] = {
    "bert": _bert,
    "bert-cased": lambda folder: _bert(folder, do_lower_case=False, model_max_length=512),
    "bert-accents": lambda folder: _bert(folder, strip_accents=False, tokenize_chinese_chars=False),
    "bert-clean-up": lambda folder: _bert(folder, clean_up_tokenization_spaces=True),
    "distilbert": lambda folder: _bert(folder, tokenizer_class="DistilBertTokenizer"),
    "openai-gpt": _gpt,
    "gpt2": lambda folder: _byte_level(folder, "GPT2Tokenizer", ["<|endoftext|>"], model_max_length=1024),
    "gpt2-prefix": lambda folder: _byte_level(folder, "GPT2Tokenizer", ["<|endoftext|>"], add_prefix_space=True),
    "opt": lambda folder: _byte_level(
        folder,
        "GPT2Tokenizer",
        ROBERTA_TOKENS,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
        add_bos_token=True,
    ),
    "roberta": lambda folder: _byte_level(folder, "RobertaTokenizer", ROBERTA_TOKENS, mask_token=MASK),
    "bart": lambda folder: _byte_level(folder, "BartTokenizer", ROBERTA_TOKENS, add_prefix_space=True),
    "gpt-neox": lambda folder: _byte_level(folder, "GPTNeoXTokenizer", ["<|endoftext|>", "<|padding|>"]),
    "qwen2": lambda folder: _byte_level(
        folder,
        "Qwen2Tokenizer",
        ["<|endoftext|>"],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        eos_token="<|im_end|>",
    ),
    "xlm-roberta": lambda folder: _spm(
        folder, "XLMRobertaTokenizer", "sentencepiece.bpe.model", UNIGRAM, mask_token=MASK
    ),
    "camembert": lambda folder: _spm(folder, "CamembertTokenizer", "sentencepiece.bpe.model", UNIGRAM),
    "mbart": lambda folder: _spm(
        folder, "MBartTokenizer", "sentencepiece.bpe.model", UNIGRAM, src_lang="de_DE", tgt_lang="en_XX"
    ),
    "mbart50": lambda folder: _spm(folder, "MBart50Tokenizer", "sentencepiece.bpe.model", UNIGRAM, src_lang="fr_XX"),
    "albert": lambda folder: _spm(folder, "AlbertTokenizer", "spiece.model", ALBERT_SPM),
    "albert-cased": lambda folder: _spm(
        folder, "AlbertTokenizer", "spiece.model", ALBERT_SPM, do_lower_case=False, keep_accents=True
    ),
    "t5": lambda folder: _spm(folder, "T5Tokenizer", "spiece.model", T5_SPM, extra_ids=7),
    "mpnet": _mpnet,
    "deberta-bytes": lambda folder: _byte_level(
        folder,
        "DebertaTokenizer",
        ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
        do_lower_case=False,
        vocab_type="gpt2",
    ),
    "deberta-bytes-prefix": lambda folder: _byte_level(folder, "DebertaTokenizer", BERT_TOKENS, add_prefix_space=True),
    "deberta": lambda folder: _spm(folder, "DebertaV2Tokenizer", "spm.model", DEBERTA_SPM),
    "deberta-punctuation": lambda folder: _spm(
        folder, "DebertaV2Tokenizer", "spm.model", DEBERTA_SPM, do_lower_case=True, split_by_punct=True
    ),
    "big-bird": lambda folder: _spm(folder, "BigBirdTokenizer", "spiece.model", BIGBIRD_SPM),
    "pegasus": lambda folder: _spm(folder, "PegasusTokenizer", "spiece.model", PEGASUS_SPM, model_max_length=512),
    "nllb": lambda folder: _nllb(folder, src_lang="fra_Latn", tgt_lang="deu_Latn"),
    "nllb-legacy": lambda folder: _nllb(folder, tgt_lang="zho_Hant", legacy_behaviour=True),
    "llama": lambda folder: _spm(folder, "LlamaTokenizer", "tokenizer.model", BPE_SPM, add_bos_token=True),
    "llama-legacy": lambda folder: _spm(
        folder, "LlamaTokenizer", "tokenizer.model", BPE_SPM, legacy=True, add_bos_token=True, add_eos_token=True
    ),
    "gemma": lambda folder: _spm(folder, "GemmaTokenizer", "tokenizer.model", GEMMA_SPM, add_bos_token=True),
}


def raw_folder(kind: str, folder: Path) -> Path:
    """Write the raw files of `kind` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    RAW[kind](folder)
    return folder


BYTES_SPM = {**UNIGRAM, "vocab_size": 560, "byte_fallback": True}


def write_marian(
    folder: Path, *, source: dict[str, Any] = UNIGRAM, codes: Iterable[str] = (), separate: bool = False, **config: Any
) -> None:
    """The files of an OPUS-MT model: vocab.json lacks some pieces of both models, and orders them in its own way."""
    target = {**UNIGRAM, "vocab_size": 300}
    write_spm(folder, "source.spm", **source)
    write_spm(folder, "target.spm", **target)
    sides = [spm_pieces(**each)[3:-7] for each in (source, target)]
    codes = [f">>{code}<<" for code in codes]
    shared = [*codes, *sorted({*sides[0], *(() if separate else sides[1])})]
    write_json(folder / "vocab.json", {piece: i for i, piece in enumerate(["</s>", "<unk>", "<pad>", *shared])})
    if separate:
        own = ["</s>", "<unk>", "<pad>", *reversed(sides[1])]
        write_json(folder / "target_vocab.json", {piece: index for index, piece in enumerate(own)})
        config["separate_vocabs"] = True
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", **config})


def write_m2m100(folder: Path, *, spm: dict[str, Any] = UNIGRAM, **config: Any) -> None:
    """The files of facebook/m2m100_*, whose tokenizer_config.json lists the languages."""
    write_spm(folder, "sentencepiece.bpe.model", **spm)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(spm_pieces(**spm)[3:-7], reverse=True)]
    write_json(folder / "vocab.json", {piece: index for index, piece in enumerate(pieces)})
    codes = WMT21_LANGUAGES if config.get("language_codes") == "wmt21" else M2M100_LANGUAGES
    listed = {"additional_special_tokens": [f"__{code}__" for code in codes]}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "M2M100Tokenizer", **listed, **config})


def _word_merges(count: int) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Merges of letters of the sample's words, and the words in their pieces; the last of a word ends in </w>."""
    words = [[*word[:-1], f"{word[-1]}</w>"] for text in SENTENCES for word in text.lower().split()]
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        best = Counter(pair for word in words for pair in pairwise(word)).most_common(1)[0][0]
        merges.append(best)
        words = [merge(word, best) for word in words]
    return merges, words


def write_blenderbot_small(folder: Path) -> None:
    """The files of facebook/blenderbot-90M."""
    merges, words = _word_merges(60)
    pieces = {part.removesuffix("</w>") if part.endswith("</w>") else f"{part}@@" for word in words for part in word}
    tokens = ["__null__", "__start__", "__end__", "__unk__", "__newln__", *sorted(pieces)[:-5], "'", ".", "!"]
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(dict.fromkeys(tokens))})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BlenderbotSmallTokenizer"})


def write_biogpt(folder: Path) -> None:
    """The files of microsoft/biogpt, whose merges have counts behind them."""
    merges, words = _word_merges(60)
    pieces = sorted({part for word in words for part in word} | {f"{mark}</w>" for mark in ".,!?-"})
    write_json(
        folder / "vocab.json", {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces[:-5]])}
    )
    lines = [f"{a} {b} {9000 - rank}" for rank, (a, b) in enumerate(merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BioGptTokenizer"})


def _plbart_multi(folder: Path, **config: Any) -> None:
    _spm(folder, "PLBartTokenizer", "sentencepiece.bpe.model", UNIGRAM, language_codes="multi", **config)


# name -> writes a folder of raw files that transformers reads with Python and sentencepiece
PIECES: dict[str, Callable[[Path], None]] = {
    "marian": write_marian,
    "marian-codes": lambda folder: write_marian(folder, codes=["fra", "deu", "zho_Hans"], model_max_length=256),
    "marian-bytes": lambda folder: write_marian(folder, source=BYTES_SPM),
    "marian-separate": lambda folder: write_marian(folder, separate=True),
    "m2m100": lambda folder: write_m2m100(folder, src_lang="fr", tgt_lang="de"),
    "wmt21": lambda folder: write_m2m100(folder, spm=NLLB_SPM, language_codes="wmt21", tgt_lang="ru"),
    "bert-generation": lambda folder: _spm(folder, "BertGenerationTokenizer", "spiece.model", {**UNIGRAM, "pad_id": 3}),
    "plbart": lambda folder: _spm(folder, "PLBartTokenizer", "sentencepiece.bpe.model", UNIGRAM),
    "plbart-java": lambda folder: _spm(
        folder, "PLBartTokenizer", "sentencepiece.bpe.model", UNIGRAM, src_lang="java", tgt_lang="en_XX"
    ),
    "plbart-multi": lambda folder: _plbart_multi(folder, mask_token=None),
    "plbart-ruby": lambda folder: _plbart_multi(folder, mask_token=None, src_lang="ruby", tgt_lang="go"),
    "blenderbot-small": write_blenderbot_small,
    "biogpt": write_biogpt,
}


def pieces_folder(kind: str, folder: Path) -> Path:
    """Write the raw files of `kind`, one of PIECES, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    PIECES[kind](folder)
    return folder
