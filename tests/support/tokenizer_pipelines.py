"""Small pipelines of every kind, built by hand: what a tokenizer.json may hold."""

from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors
from tokenizers import pre_tokenizers as pre

from tokenizer_samples import SENTENCES

LETTERS = sorted({letter for text in SENTENCES for letter in text if letter.isalnum()})


def byte_level(pre_tokenizer: Any = None, normalizer: Any = None, **options: Any) -> Backend:
    """A byte-level BPE of a few merges."""
    vocab = {letter: index for index, letter in enumerate(sorted(pre.ByteLevel.alphabet()))}
    merges = [("2", "0"), ("2", "3"), ("20", "23"), ("h", "e"), ("\u0120", "a"), ("l", "l"), ("he", "ll")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    backend = Backend(models.BPE(vocab, merges, **options))
    backend.pre_tokenizer = pre_tokenizer or pre.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    return backend


def words(normalizer: Any = None, pre_tokenizer: Any = None, **options: Any) -> Backend:
    """A WordPiece model of letters and a few words."""
    prefix = options.get("continuing_subword_prefix", "##")
    pieces = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "Hello", "hello", "caf\u00e9", "cafe", "quick"]
    pieces += [*LETTERS, *(prefix + letter for letter in LETTERS)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]", **options))
    backend.pre_tokenizer = pre_tokenizer or pre.BertPreTokenizer()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.WordPiece(prefix=prefix)
    return backend


def pieces(pre_tokenizer: Any = None, normalizer: Any = None, decoder: Any = None, **options: Any) -> Backend:
    """A unigram model with a piece for every byte."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<s>", 0.0), ("\u2581a", -1.0), ("\u2581", -2.0)]
    scores += [(letter, -5.0) for letter in LETTERS] + [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    backend = Backend(models.Unigram(scores, **{"unk_id": 2, "byte_fallback": True} | options))
    backend.pre_tokenizer = pre_tokenizer or pre.Metaspace()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoder or decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return backend


def framed(backend: Backend, before: str, after: str) -> Backend:
    """The same with a frame."""
    ids = [(token, backend.token_to_id(token)) for token in (before, after)]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}", pair=f"{before} $A {after} $B:1 {after}:1", special_tokens=ids
    )
    return backend


def with_added(backend: Backend, *tokens: Any) -> Backend:
    """The same with added tokens."""
    backend.add_tokens(list(tokens))
    return backend
