"""ByT5: every byte of UTF-8 is a token, so there is no vocabulary file."""

from collections.abc import Mapping
from typing import ClassVar

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from conjoin.tokenizer.families import name_of, with_ids
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.rust import add
from conjoin.tokenizer.sentinels import WithSentinels


class ByT5Tokenizer(WithSentinels):
    """Three special tokens, 256 bytes, then the sentinels (Xue et al. 2021, arXiv:2105.13626). Frame: `A </s> B </s>`.

    A byte's token is its character in GPT-2's byte-level alphabet; transformers uses the Latin-1 character instead.
    """

    kind = "BPE"
    usual_sentinels = 125  # google/byt5-*
    first_is_last = False
    saved_class = "ByT5Tokenizer"
    keeps_class = True
    defaults: ClassVar[Mapping[str, Token | None]] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Return a BPE without merges over all bytes; spaces next to the three special tokens are stripped as in T5."""
        sentinels = [AddedToken(text_of(token), special=True) for token in cls.sentinels(cls.sentinels_asked(settings))]
        special = [name_of(settings, name) for name in ("pad_token", "eos_token", "unk_token")]
        ids = {token: index for index, token in enumerate([*special, *byte_alphabet()])}
        backend = Backend(models.BPE(ids, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        stripping = [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in special]
        add(backend, [*stripping, *sentinels], special=True)
        return backend

    def frame(self) -> None:
        eos = self.eos_token or "</s>"
        self.backend.post_processor = TemplateProcessing(
            single=["$A", eos], pair=["$A", eos, "$B", eos], special_tokens=with_ids(self, eos)
        )

    def texts_of(self, rows: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
        """Decode rows without bytes that are not valid UTF-8, as transformers does; Rust would insert U+FFFD."""
        texts = super().texts_of(rows, skip_special_tokens=skip_special_tokens)
        return [
            self._decode_valid_bytes(row, skip_special_tokens) if "\ufffd" in text else text
            for row, text in zip(rows, texts, strict=True)
        ]

    def _decode_valid_bytes(self, row: list[int], skip_special_tokens: bool) -> str:
        bytes_of = {character: bytes([byte]) for byte, character in enumerate(byte_alphabet())}
        skipped = set(self.all_special_ids) if skip_special_tokens else set[int | None]()
        tokens = [self.token_of(index) for index in row if index not in skipped]
        parts = [bytes_of.get(token, token.encode()) for token in tokens if token is not None]
        return b"".join(parts).decode("utf-8", errors="ignore")


def byte_alphabet() -> list[str]:
    """Return GPT-2's character for every byte, in byte order: printable bytes stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


ByT5TokenizerFast = ByT5Tokenizer
