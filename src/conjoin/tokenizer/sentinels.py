"""T5's sentinels: tokens `<extra_id_0>`, `<extra_id_1>` ... that replace the masked parts of a text."""

from itertools import count
from typing import ClassVar

from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError
from conjoin.limits import EXTRA_IDS
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.tokenizer import Tokenizer


class WithSentinels(Tokenizer):
    """Base of families with sentinels; `extra_ids` is their number."""

    usual_sentinels: ClassVar[int] = 100
    first_is_last: ClassVar[bool] = True
    """True if `<extra_id_0>` has the highest id of the sentinels."""

    @classmethod
    def sentinels(cls, number: int) -> list[Token]:
        """Return this many sentinels, in the order of their names."""
        return [f"<extra_id_{index}>" for index in range(number)]

    @classmethod
    def sentinels_asked(cls, settings: Settings) -> int:
        """Return the number of sentinels in the settings.

        Raises:
            TokenizerError: extra_ids is not a number, or too large.
        """
        number = settings.options.get("extra_ids", cls.usual_sentinels)
        if type(number) is not int or not 0 <= number <= EXTRA_IDS:
            raise TokenizerError(
                f"extra_ids = {str(number)[:40]}, expected a whole number from 0 to {EXTRA_IDS:,} (limits.EXTRA_IDS)."
            )
        return number

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        """Return the listed special tokens with `extra_ids` sentinels."""
        settings.options["extra_ids"] = number = cls.sentinels_asked(settings)
        if listed is None:
            return cls.sentinels(number)
        sentinels = [token for token in listed if "<extra_id_" in text_of(token)]
        if sentinels and number and number != len(sentinels):
            raise TokenizerError(f"extra_ids = {number}, but {len(sentinels)} tokens <extra_id_...> are listed.")
        return listed if sentinels else [*listed, *cls.sentinels(number)]

    @classmethod
    def extra_of_file(cls, backend: Backend, settings: Settings) -> list[Token] | None:
        """Return the sentinels in the vocabulary, and the family's other listed tokens."""
        cls.sentinels_asked(settings)  # raises unless it is a number
        existing = cls.sentinels(_count(backend))
        texts = set(existing)
        return [*existing, *(token for token in settings.family_extra or [] if text_of(token) not in texts)]

    def counted(self) -> dict[str, int]:
        return {"extra_ids": _count(self.backend)}

    def finish(self) -> None:
        """Add the sentinels that a tokenizer.json lacks, if the caller passed a higher number."""
        count, options = _count(self.backend), self.settings.options
        if self.settings.is_raw:
            options["extra_ids"] = count
        if "extra_ids" not in self.settings.asked or options["extra_ids"] == count:
            return
        if options["extra_ids"] < count:
            raise TokenizerError(
                f"extra_ids = {options['extra_ids']} was asked for, but {self.settings.origin} has {count} sentinels."
            )
        new = self.sentinels(options["extra_ids"])[count:]
        self.add_tokens(new[::-1] if self.first_is_last else new, special_tokens=True)
        self.settings.extra = [*(self.settings.extra or []), *new]


def _count(backend: Backend) -> int:
    """Return how many sentinels a vocabulary has, counted from the first."""
    return next(index for index in count() if backend.token_to_id(f"<extra_id_{index}>") is None)
