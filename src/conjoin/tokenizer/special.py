"""Special tokens: their names, their ids, and adding new ones to the vocabulary."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast, overload

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from conjoin.errors import TokenizerError, listing, warn
from conjoin.tokenizer.formats.settings import NAMED, Settings, Token, text_of
from conjoin.tokenizer.rust import add, in_turn


class NamedToken:
    """`tokenizer.pad_token`: the text of a special token, None if the tokenizer has none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, tokenizer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, tokenizer: "SpecialTokens", owner: type) -> str | None: ...
    def __get__(self, tokenizer: "SpecialTokens | None", owner: type) -> "Self | str | None":
        if tokenizer is None:
            return self
        token = tokenizer.settings.named.get(self._name)
        return None if token is None else text_of(token)

    def __set__(self, tokenizer: "SpecialTokens", value: Token | None) -> None:
        tokenizer.name_token(self._name, value)


class NamedTokenId:
    """`tokenizer.pad_token_id`: the id of a special token, None if the tokenizer has none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name.removesuffix("_id")

    @overload
    def __get__(self, tokenizer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, tokenizer: "SpecialTokens", owner: type) -> int | None: ...
    def __get__(self, tokenizer: "SpecialTokens | None", owner: type) -> "Self | int | None":
        if tokenizer is None:
            return self
        with tokenizer.lock:
            token = tokenizer.settings.named.get(self._name)
            return None if token is None else tokenizer.id_of(text_of(token))

    def __set__(self, tokenizer: "SpecialTokens", value: int | None) -> None:
        with tokenizer.lock:
            text = None if value is None else tokenizer.token_of(value)
            if value is not None and text is None:
                raise TokenizerError(f"{self._name}_id = {value}, but the vocabulary has {len(tokenizer)} tokens.")
            tokenizer.name_token(self._name, text)


class SpecialTokens:
    """The special tokens of a tokenizer; `Tokenizer` adds encoding, decoding and files."""

    backend: Backend
    settings: Settings
    lock: Any
    roles: frozenset[int] = frozenset()
    """Ids of special tokens that tokenizer.json does not mark as special; decoding skips them all the same."""

    bos_token, bos_token_id = NamedToken(), NamedTokenId()
    eos_token, eos_token_id = NamedToken(), NamedTokenId()
    unk_token, unk_token_id = NamedToken(), NamedTokenId()
    sep_token, sep_token_id = NamedToken(), NamedTokenId()
    pad_token, pad_token_id = NamedToken(), NamedTokenId()
    cls_token, cls_token_id = NamedToken(), NamedTokenId()
    mask_token, mask_token_id = NamedToken(), NamedTokenId()

    @property
    @in_turn
    def special_tokens_map(self) -> dict[str, str]:
        """Texts of all named special tokens that are set, by name."""
        named = {name: self.settings.named.get(name) for name in NAMED} | self.settings.named
        return {name: text_of(token) for name, token in named.items() if token is not None}

    @property
    def extra_special_tokens(self) -> list[str]:
        """Texts of the special tokens without a name."""
        return [text_of(token) for token in self.settings.extra or []]

    @property
    @in_turn
    def all_special_tokens(self) -> list[str]:
        """Named special tokens, then the others, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    @in_turn
    def all_special_ids(self) -> list[int | None]:
        """The ids of `all_special_tokens`, in the same order."""
        return [self.id_of(token) for token in self.all_special_tokens]

    @property
    @in_turn
    def end_token_id(self) -> int | None:
        """The id that ends a text: eos, else sep. BERT has no eos, its texts end in [SEP]."""
        return self.sep_token_id if self.eos_token_id is None else self.eos_token_id

    @property
    @in_turn
    def start_token_id(self) -> int | None:
        """The id that starts a text: bos, else cls. BERT has no bos, its texts start with [CLS]."""
        return self.cls_token_id if self.bos_token_id is None else self.bos_token_id

    @property
    def add_bos_token(self) -> bool:
        """True if encoding puts bos first; setting it replaces the post-processor."""
        return bool(self.settings.options.get("add_bos_token", False))

    @add_bos_token.setter
    @in_turn
    def add_bos_token(self, value: bool) -> None:
        self.settings.options["add_bos_token"] = value
        self.set_bos_eos_template()

    @property
    def add_eos_token(self) -> bool:
        """True if encoding puts eos last; setting it replaces the post-processor."""
        return bool(self.settings.options.get("add_eos_token", False))

    @add_eos_token.setter
    @in_turn
    def add_eos_token(self, value: bool) -> None:
        self.settings.options["add_eos_token"] = value
        self.set_bos_eos_template()

    def __len__(self) -> int:
        """The number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    @in_turn
    def id_of(self, token: str) -> int | None:
        """Return the id of a token; that of the unknown token if the vocabulary lacks it, or None."""
        index = self.backend.token_to_id(token)
        if index is not None:
            return index
        unknown = self.settings.named.get("unk_token")
        return None if unknown is None else self.backend.token_to_id(text_of(unknown))

    def token_of(self, index: int) -> str | None:
        """Return the token of an id; None outside the vocabulary."""
        return self.backend.id_to_token(index) if 0 <= index < 1 << 32 else None  # Rust's ids are 32 bits wide

    @in_turn
    def name_token(self, name: str, value: Any) -> None:
        """Set the special token `name`, without adding it to the vocabulary.

        Raises:
            TokenizerError: `value` is not a token.
        """
        if value is not None and not isinstance(value, str | AddedToken):
            raise TokenizerError(f"{name} = {value!r} ({type(value).__name__}), expected a string or an AddedToken.")
        if value is not None and self.backend.token_to_id(text_of(value)) is None:
            warn(
                f"{name} = {text_of(value)!r} is not in the vocabulary, so its id is that of the unknown token. "
                f"Write tokenizer.add_special_tokens({{{name!r}: {text_of(value)!r}}}) to add it."
            )
        self.settings.named[name] = value

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens that the vocabulary lacks, at its end.

        Returns:
            The number of new tokens; if it is not 0, resize the model's embeddings to `len(tokenizer)`.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        return add(self.backend, tokens, special=special_tokens) if tokens else 0

    @in_turn
    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Name special tokens and add those that the vocabulary lacks, as in `{"pad_token": "<pad>"}`.

        Args:
            special_tokens_dict: keys such as `pad_token`, or `extra_special_tokens` with a list.
        Returns:
            The number of new tokens.
        Raises:
            TokenizerError: a key is unknown, or a value is not a token.
        """
        new: list[AddedToken] = []
        for name, value in special_tokens_dict.items():
            key = "extra_special_tokens" if name == "additional_special_tokens" else name
            if key == "extra_special_tokens":
                new += self._extend_extra(value, replace=replace_extra_special_tokens)
            elif key in NAMED and isinstance(value, str | AddedToken):
                token = AddedToken(value, normalized=False, special=True) if isinstance(value, str) else value
                self.settings.named[key] = token
                new.append(token)
            else:
                raise TokenizerError(
                    f"add_special_tokens got {name!r}: {value!r}, expected one of {', '.join(NAMED)} with a token, "
                    "or extra_special_tokens with a list of tokens."
                )
        return self.add_tokens(new, special_tokens=True)

    @in_turn
    def set_bos_eos_template(self) -> None:
        """Make encoding add bos and eos as `add_bos_token` and `add_eos_token` say."""
        bos = self.bos_token if self.add_bos_token else None
        eos = self.eos_token if self.add_eos_token else None
        first, second = (
            [f"{token}:{type_id}" for token in (bos, f"${name}", eos) if token]
            for type_id, name in ((0, "A"), (1, "B"))
        )
        self.backend.post_processor = TemplateProcessing(
            single=first,
            pair=[*first, *second],
            special_tokens=[(token, self.backend.token_to_id(token)) for token in (bos, eos) if token],
        )

    def register_tokens(self) -> None:
        """Add the tokens that the files list to the vocabulary: added tokens by id, then named ones, then the others.

        Tokens of a tokenizer.json stay as they are there; only new tokens and the caller's are added to it.

        Raises:
            TokenizerError: a token cannot get the id that a file gives it.
        """
        settings, own = self.settings, self.backend.get_added_tokens_decoder()
        new: list[Token] = [token for _, token in sorted(settings.added.items(), key=lambda item: item[0])]
        known = {token.content for token in own.values()} | {text_of(token) for token in new}
        named = [settings.named.get(name) for name in {**dict.fromkeys(NAMED), **settings.named}]
        listed = [token for token in [*named, *(settings.extra or [])] if token is not None]
        roles = {repr(token): token for token in listed}.values()  # distinct tokens, options included
        new += [token for token in roles if text_of(token) not in known]
        if not settings.is_raw:
            new = [token for token in new if self._is_new(token)]
        special = {text_of(token) for token in roles}
        self.add_tokens([_as_special(token, force=text_of(token) in special) for token in new])
        self._check_ids(new)
        ids = {self.backend.token_to_id(text) for text in special}
        rust = {index for index, token in self.backend.get_added_tokens_decoder().items() if token.special}
        self.roles = frozenset(index for index in ids - rust if index is not None)

    def _is_new(self, token: Token) -> bool:
        return self.backend.token_to_id(text_of(token)) is None or text_of(token) in self.settings.asked_texts

    def _check_ids(self, new: Sequence[Token]) -> None:
        """Check that new tokens, which Rust numbers itself, get the ids of the files, and not another token's."""
        expected = {token.content: index for index, token in self.settings.added.items()}
        model, wrong = self.backend.model, list[str]()
        for text in dict.fromkeys(text_of(token) for token in new):
            index = self.backend.token_to_id(text)
            owner = None if index is None else model.id_to_token(index)
            if index != expected.get(text, index):
                wrong.append(f"{text!r} should have the id {expected[text]}, but gets {index}")
            elif owner is not None and owner != text:
                wrong.append(f"{text!r} gets the id {index}, which {owner!r} has")
        if wrong:
            raise TokenizerError(
                f"{self.settings.origin}: the ids of added tokens cannot be honoured:\n{listing(wrong, limit=5)}",
                hint="ids follow the vocabulary without a gap; list the tokens that are missing, or correct the ids.",
            )

    def _extend_extra(self, values: Any, *, replace: bool) -> list[AddedToken]:
        if not isinstance(values, list | tuple) or not all(
            isinstance(value, str | AddedToken) for value in cast(Sequence[Any], values)
        ):
            raise TokenizerError(f"extra_special_tokens = {values!r}, expected a list of tokens.")
        tokens = cast(Sequence[Token], values)
        existing = set(self.extra_special_tokens)
        new = [_as_special(token, force=False) for token in tokens if replace or text_of(token) not in existing]
        self.settings.extra = [*new] if replace and new else [*(self.settings.extra or []), *new]
        return new


def _as_special(token: Token, *, force: bool) -> AddedToken:
    """Return a string as a special token; an AddedToken as it is, or as a special one if `force` is True."""
    if isinstance(token, str):
        return AddedToken(token, normalized=False, special=True)
    if token.special or not force:
        return token
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )
