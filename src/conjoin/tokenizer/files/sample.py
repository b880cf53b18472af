"""A fixed sample in many scripts, encoded when a pipeline is loaded to detect any difference from its file."""

from dataclasses import dataclass
from typing import Any, Self

from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError
from conjoin.tokenizer.rust import limits_of, no_panics, set_limits

SAMPLE = (
    "The Quick brown Fox isn't 25% as lazy as 1234567890 dogs; e-mail a.b@c.org!",
    "Caf\u00e9 na\u00efve \u00c5ngstr\u00f6m Stra\u00dfe e\u0301 \u0130stanbul",
    "\u6211\u80fd\u541e\u4e0b\u73bb\u7483\u3002\u30ab\u30bf\u30ab\u30ca \ud55c\uad6d\uc5b4",
    "\u0e44\u0e17\u0e22\u0e44\u0e21\u0e48 \u0623\u0646\u0627 \u0915\u094d\u0937 \u0441\u044a\u0435\u0448\u044c",
    "a \U0001f999\U0001f44d\U0001f3fd b \ufb01 \uff21\u2460",
    " two  spaces\tand\na newline\r\n\n  def f(x):\n\treturn x ",
    "a<b>c < d <0x41> \u2581e \u0120f ##g @@h",
    "<s> </s> <pad> <unk> <mask> [CLS] x [SEP] [MASK] <|endoftext|> <extra_id_0> en_XX",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A pipeline's result for the sample: ids of every line without and with its frame, and the decoded text."""

    bare: list[list[int]]
    framed: list[list[int]]
    decoded: list[str]
    added: frozenset[int]

    @classmethod
    def of(cls, backend: Backend, origin: str) -> Self:
        """Encode and decode the sample, without padding and truncation.

        Raises:
            TokenizerError: the Rust library cannot encode with this file.
        """
        limits = limits_of(backend)
        set_limits(backend, None, None)
        try:
            with no_panics(origin):
                bare = [row.ids for row in backend.encode_batch(list(SAMPLE), add_special_tokens=False)]
                framed = [row.ids for row in backend.encode_batch(list(SAMPLE))]
                decoded = backend.decode_batch(bare, skip_special_tokens=False)
        except TokenizerError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerError(f"{origin}: the tokenizers library cannot encode with this file: {error}.") from error
        finally:
            set_limits(backend, *limits)
        return cls(bare, framed, decoded, frozenset(backend.get_added_tokens_decoder()))


def is_random(backend: Backend) -> bool:
    """True if the model splits the same text in random ways (BPE dropout, unigram sampling)."""
    model: Any = backend.model
    return bool(getattr(model, "dropout", None) or getattr(model, "alpha", None))


def check_same(file: Sample, ours: Sample, origin: str, *, frames: bool) -> None:
    """Refuse a tokenizer whose result for the sample differs from its file's, unless new tokens explain it.

    Args:
        frames: True to compare the special tokens around a text too.
    Raises:
        TokenizerError: a line differs.
    """
    new = ours.added - file.added
    for index, text in enumerate(SAMPLE):
        if new.intersection(ours.bare[index]):
            continue
        pairs = [(file.bare[index], ours.bare[index]), (file.decoded[index], ours.decoded[index])]
        if frames:
            pairs.append((file.framed[index], ours.framed[index]))
        for theirs, mine in pairs:
            if theirs != mine:
                at = next((i for i, (a, b) in enumerate(zip(theirs, mine, strict=False)) if a != b), len(theirs))
                raise TokenizerError(
                    f"{origin}: in {text!r}, place {at} and after become {mine[at : at + 5]!r} here, "
                    f"{theirs[at : at + 5]!r} by the file alone.",
                    hint="please report this; tokenizers.Tokenizer.from_file(path) reads the file as written.",
                )
