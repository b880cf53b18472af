"""Texts in many scripts, and folders of tokenizer files trained on them: what the tokenizer tests build on."""

import io
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

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
