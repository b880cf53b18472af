"""`WithLanguages`: base of tokenizers that tell a model which language a text has, and which to write."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from tokenizers.processors import TemplateProcessing

from conjoin.errors import warn
from conjoin.tokenizer.families import with_ids
from conjoin.tokenizer.formats.settings import NAMED
from conjoin.tokenizer.languages import TargetLanguage, known_language, resolved
from conjoin.tokenizer.rust import in_turn
from conjoin.tokenizer.tokenizer import Tokenizer

_SIDES = ("src_lang", "tgt_lang")


class WithLanguages(Tokenizer):
    """A tokenizer with languages: `src_lang` is that of texts, `tgt_lang` that of target texts.

    Both can be set at any time, to a code of the family or to one that can mean only one of them, such as `en` for
    `en_XX` or `eng_Latn`.
    """

    keeps_class = True
    marks_sources: ClassVar[bool] = True
    """True if texts have the code of their own language."""
    languages: ClassVar[tuple[str, ...]] = ()
    default_language: ClassVar[str | None] = "en_XX"
    """The language of texts until one is set; None if they have none."""

    def language_codes(self) -> Iterable[str]:
        """Return the codes of the family, whether or not the vocabulary has them."""
        return self.languages

    def language_token(self, code: str) -> str:
        """Return the token of a code."""
        return code

    @property
    @in_turn
    def lang_code_to_id(self) -> dict[str, int]:
        """Ids of the languages in the vocabulary, by code."""
        ids = {code: self.backend.token_to_id(self.language_token(code)) for code in self.language_codes()}
        return {code: index for code, index in ids.items() if index is not None}

    @property
    @in_turn
    def target_language(self) -> TargetLanguage | None:
        """The language of target texts; None until `tgt_lang` is set, although src_lang is used until then."""
        code = self.settings.options.get("tgt_lang")
        if not code:
            return None
        return TargetLanguage(code, self.language_id(code), leads=self.target_leads())

    def target_leads(self) -> bool:
        """Return True if what a model writes begins with the target's code, False if its start id is the code."""
        return bool(self._around("", "code")[0])

    @property
    def needs_target_language(self) -> bool:
        """True if there are languages to write, and neither `tgt_lang` nor a text says which."""
        return self.target_language is None and len(self.lang_code_to_id) > 0

    @in_turn
    def language_id(self, code: str) -> int:
        """Return the id of a language code.

        Raises:
            TokenizerError: the language is unknown; the error names similar ones.
        """
        return known_language(self.full_code(code), self.lang_code_to_id, self._own_languages(), type(self).__name__)

    @in_turn
    def full_code(self, code: str) -> str:
        """Return the family's code that another form of it means, such as eng_Latn for en; the code itself if none."""
        if code in self._own_languages():
            return code
        return resolved(code, [*self.language_codes()]) or code

    def _own_languages(self) -> Mapping[str, int]:
        """Return the languages that the user has added to the vocabulary, whose tokens are their codes."""
        named = {str(getattr(self, name)) for name in NAMED if getattr(self, name) is not None}
        return {text: index for text, index in self.get_added_vocab().items() if text not in named}

    @property
    def src_lang(self) -> str | None:
        """The language code of texts."""
        return self.settings.options.get("src_lang") or self.default_language

    @src_lang.setter
    @in_turn
    def src_lang(self, code: str) -> None:
        code = self.full_code(code)
        template = self._template(code)  # raises for an unknown code before anything changes
        self.settings.options["src_lang"] = code
        self.backend.post_processor = template

    @property
    def tgt_lang(self) -> str | None:
        """The language code of target texts; `src_lang` until it is set."""
        return self.settings.options.get("tgt_lang") or self.src_lang

    @tgt_lang.setter
    @in_turn
    def tgt_lang(self, code: str) -> None:
        code = self.full_code(code)
        self.language_id(code)
        self.settings.options["tgt_lang"] = code

    @in_turn
    def language_settings(self) -> tuple[str | None, str | None, Any]:
        """Return what `restore_languages` takes to undo later changes of the languages."""
        source, target = (self.settings.options.get(side) for side in _SIDES)
        return source, target, self.backend.post_processor

    @in_turn
    def restore_languages(self, before: tuple[str | None, str | None, Any]) -> None:
        """Set the languages back to what they were."""
        for side, code in zip(_SIDES, before, strict=False):
            self.settings.options.pop(side, None)
            if code is not None:
                self.settings.options[side] = code
        self.backend.post_processor = before[2]

    def target_template(self) -> Any:
        code = self.settings.options.get("tgt_lang")
        return self._template(code) if code else None

    def frame(self) -> None:
        self.backend.post_processor = self._template(self.src_lang)

    def finish(self) -> None:
        """Apply src_lang to the post-processor; without that setting, read it from tokenizer.json's."""
        options = self.settings.options
        for side in _SIDES:
            if isinstance(options.get(side), str):
                options[side] = self.full_code(options[side])
        saved, own = options.get("src_lang"), self._framed_language()
        if saved is None and own is not None:
            options["src_lang"] = own
        elif saved is not None:
            if own not in (None, saved) and "src_lang" not in self.settings.asked:
                warn(
                    f"{self.settings.origin} frames texts with {own}, tokenizer_config.json says src_lang = {saved!r}: "
                    f"{saved} is used. Pass src_lang={own!r} for the other."
                )
            self.frame()

    @property
    def frames_itself(self) -> bool:
        return self.settings.options.get("src_lang") is not None

    def _framed_language(self) -> str | None:
        """Return the language whose code the post-processor adds to texts; None without one."""
        if self.backend.post_processor is None:
            return None
        codes = {self.language_token(code): code for code in self.language_codes()}
        return next((codes[token] for token in self.backend.encode("").tokens if token in codes), None)

    def _template(self, code: str | None) -> TemplateProcessing:
        eos = self.eos_token or "</s>"
        if code is None:
            prefix, suffix = [], [eos]
        else:
            self.language_id(code)
            prefix, suffix = self._around(eos, self._token_of(code))
        return TemplateProcessing(
            single=[*prefix, "$A", *suffix],
            pair=[*prefix, "$A", "$B", *suffix],
            special_tokens=with_ids(self, *prefix, *suffix),
        )

    def _token_of(self, code: str) -> str:
        return self.language_token(code) if code in set(self.language_codes()) else code

    def _around(self, eos: str, code: str) -> tuple[list[str], list[str]]:
        """Return the tokens before and after a text."""
        return [], [eos, code]


def speaks(tokenizer: Any, side: Literal["source", "target"]) -> bool:
    """True if a tokenizer has languages to choose from for texts ("source"), or for target texts."""
    if not isinstance(tokenizer, WithLanguages):
        return False
    return len(tokenizer.lang_code_to_id) > 0 and (side == "target" or tokenizer.marks_sources)
