"""`Tokenizer`: text to ids and back, called as transformers' tokenizers are called."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError, warn
from conjoin.tokenizer.batch import BatchEncoding, TensorKind
from conjoin.tokenizer.decode import Decoding
from conjoin.tokenizer.files.find import Source
from conjoin.tokenizer.files.load import load
from conjoin.tokenizer.files.read import Vocabulary
from conjoin.tokenizer.files.save import save
from conjoin.tokenizer.limits import IS_LIMIT, Asked, Facts, length_limit, resolve_limits
from conjoin.tokenizer.pad import array_kind, as_columns, pad_columns
from conjoin.tokenizer.run import Columns, Pad, Runner, Wish, collect
from conjoin.tokenizer.rust import in_turn, limits_of, set_limits
from conjoin.tokenizer.settings import Settings, Token
from conjoin.tokenizer.texts import as_texts


class Tokenizer(Decoding):
    """Any tokenizer that a `tokenizer.json` describes; families with older files are subclasses in families.py.

    Ids and decoded text are those of the file, and where there is none those of transformers' fast tokenizers. Calls,
    settings, copies and files are safe to use from several threads: each is one step, and no step sees the middle of
    another.
    """

    kind: ClassVar[str | None] = None
    """The model the family runs: WordPiece, BPE or Unigram. None: take tokenizer.json as it is."""
    vocabulary_files: ClassVar[tuple[str, ...]] = ()
    """What the family reads where there is no tokenizer.json."""
    defaults: ClassVar[Mapping[str, Token | None]] = {}
    """Special tokens of the family that no file needs to name; None: it has none, whatever padding the file sets."""
    switches: ClassVar[Mapping[str, Any]] = {}
    """The settings that `build` honours, by their usual value; strip_accents is usually what do_lower_case is: None."""
    saved_class: ClassVar[str] = "PreTrainedTokenizerFast"
    """The `tokenizer_class` that transformers knows for these files."""
    keeps_class: ClassVar[bool] = False
    """Whether transformers needs the class even where it builds another pipeline, as for languages."""
    not_rebuilt: ClassVar[frozenset[str]] = frozenset()
    """Settings that `build` honours and transformers' class does not."""

    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    truncation_side: str = "right"

    def __init__(self, backend: Backend, settings: Settings | None = None) -> None:
        """Wrap a Rust tokenizer; `from_pretrained` is the usual way in."""
        self.settings = settings or Settings()
        self._runner = Runner(backend, self.settings.origin)
        self._warned_long = False
        self._take_over_limits()
        self.register_tokens()
        self.finish()

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool | None = None,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> Self:
        """Load from a folder, a file or a hub id: tokenizer.json as it is written, the family's older files else.

        Args:
            overrides: any key of tokenizer_config.json, as `model_max_length=512` or `pad_token="<pad>"`; wins over it.
                What speaks about the pipeline, as `do_lower_case=True`, changes that of tokenizer.json or is refused.
        Raises:
            FileError: no such folder, file or repository.
            TokenizerError: files are missing, unreadable or of another family.
        """
        source = Source(
            name=name_or_folder,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        return load(cls, source, overrides)

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Make the Rust pipeline of the family from its vocabulary; each family says how."""
        raise NotImplementedError

    @classmethod
    def extra_tokens(cls, given: list[Token] | None, settings: Settings) -> list[Token] | None:
        """The unnamed special tokens of the family, merged with those that its files list."""
        del settings
        return given

    @classmethod
    def extra_of_file(cls, backend: Backend, settings: Settings) -> list[Token] | None:
        """The unnamed special tokens of the family over a tokenizer.json; those that it lacks are left out."""
        del backend
        return cls.extra_tokens(settings.family_extra, settings)

    def frame(self) -> None:
        """Set what the family puts around a text, where it built the pipeline itself."""
        self.set_bos_eos_template()

    def finish(self) -> None:
        """Set what the family adds to any pipeline; called when every special token has its id."""

    @property
    def frames_itself(self) -> bool:
        """Whether settings of the family, and no file, say what stands around a text."""
        return False

    def counted(self) -> dict[str, int]:
        """The settings of the family that say how many tokens there are, by what the vocabulary has."""
        return {}

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write tokenizer.json and tokenizer_config.json, readable by conjoin and by transformers.

        Returns:
            The paths written.
        Raises:
            FileError: the folder cannot be written.
        """
        return save(self, Path(save_directory))

    @property
    def backend(self) -> Backend:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The Rust tokenizer inside; what is read of it or written to it waits for calls in other threads."""
        return self._runner.backend

    @property
    def lock(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Held while the tokenizer is used; `with tokenizer.lock:` makes several steps one."""
        return self._runner.lock

    @in_turn
    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"settings": deepcopy(self.settings), "_runner": self._runner.__getstate__()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        runner = Runner.__new__(Runner)
        runner.__setstate__(state["_runner"])
        vars(self).update(state, _runner=runner)

    @property
    def model_max_length(self) -> int:
        """The longest row the model takes; 1e30 when no file says."""
        return length_limit(self.settings.options.get("model_max_length"))

    @model_max_length.setter
    @in_turn
    def model_max_length(self, value: int) -> None:
        self.settings.options["model_max_length"] = length_limit(value)

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings read from files and overrides; they are saved again."""
        return self.settings.options

    @property
    def vocab_size(self) -> int:
        """The number of ids without added tokens; `len(tokenizer)` counts those too."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Every token, added ones included, and its id."""
        return self.backend.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """The added tokens and their ids, by id."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: index for index, token in sorted(added.items(), key=lambda item: item[0])}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens encoding adds to one text or to a pair."""
        return self.backend.num_special_tokens_to_add(pair)

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: TensorKind | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        *,
        max_target_length: int | None = None,
        split_special_tokens: bool | None = None,
    ) -> BatchEncoding:
        """Tokenize one text or many; arguments, their order and their meaning are transformers'.

        Args:
            text: a string or a list of them; with `is_split_into_words`, words instead of strings.
            text_target: target texts; with `text` their ids come back as `labels`.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", or False.
            max_length: for truncation and for padding="max_length"; given alone, it truncates.
            max_target_length: `max_length` for the targets.
            return_tensors: "pt", "np", "jax" or "tf"; None gives lists.
        Raises:
            TokenizerError: input that is not text, or settings that cannot be met; the text says which.
        """
        if text is None and text_target is None:
            raise TokenizerError("neither text nor text_target was given.", hint="tokenizer(texts)")
        wish = Wish(
            limits=Asked(
                padding=padding,
                truncation=truncation,
                max_length=max_length,
                stride=stride,
                pad_to_multiple_of=pad_to_multiple_of,
                padding_side=padding_side,
            ),
            columns=Columns(
                token_type_ids=self._wants("token_type_ids", return_token_type_ids),
                attention_mask=self._wants("attention_mask", return_attention_mask),
                overflowing_tokens=return_overflowing_tokens,
                special_tokens_mask=return_special_tokens_mask,
                offsets_mapping=return_offsets_mapping,
                length=return_length,
            ),
            add_special_tokens=add_special_tokens,
            is_split_into_words=is_split_into_words,
            split_special_tokens=split_special_tokens,
            keep_batch=return_tensors is not None,
            verbose=verbose,
        )
        target_wish = wish if max_target_length is None else wish.with_max_length(max_target_length)
        if text is None:
            return self.run_target(text_target, text_pair_target, target_wish).convert_to_tensors(return_tensors)
        with self.lock:  # both sides by the same settings
            batch = self.run(text, text_pair, wish)
            if text_target is not None:
                batch["labels"] = self.run_target(text_target, text_pair_target, target_wish)["input_ids"]
        return batch.convert_to_tensors(return_tensors)

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **kwargs: Any) -> Any:
        """Tokenize and return the ids alone; takes every argument of a call."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **kwargs)["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Cut one text into pieces, as text instead of ids."""
        return self(text, pair, add_special_tokens=add_special_tokens, verbose=False).tokens()

    def run(self, text: Any, text_pair: Any, wish: Wish) -> BatchEncoding:
        """Tokenize as `wish` says; lists, never tensors."""
        return self._run(text, text_pair, wish, template=None)

    @in_turn
    def run_target(self, text: Any, text_pair: Any, wish: Wish) -> BatchEncoding:
        """Tokenize target texts: as `run`, with the target language's tokens where a family has them."""
        return self._run(text, text_pair, wish, template=self.target_template())

    def target_template(self) -> Any:
        """The post-processor for target texts; None when it is that of every text."""
        return None

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: TensorKind | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Fill up rows of ids, one or many, as a data collator does. Columns it does not know stay as they are.

        Raises:
            TokenizerError: no input_ids, no pad token, or rows that cannot become an array.
        """
        del verbose
        kind = return_tensors or cast(TensorKind | None, array_kind(encoded_inputs))
        asked = Asked(
            padding=padding,
            truncation=False,
            max_length=max_length if padding == "max_length" else None,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
        )
        limits = resolve_limits(asked, self.facts())
        mask = self._wants("attention_mask", return_attention_mask)
        padded = pad_columns(as_columns(encoded_inputs), limits, self.pad_token_id or 0, attention_mask=mask)
        return BatchEncoding(padded).convert_to_tensors(kind)

    @in_turn
    def __repr__(self) -> str:
        shown: dict[str, Any] = {"vocab_size": self.vocab_size}
        if len(self) != self.vocab_size:
            shown["added_tokens"] = len(self) - self.vocab_size
        if self.model_max_length <= IS_LIMIT:
            shown["model_max_length"] = self.model_max_length
        shown |= {
            name: self.settings.options[name] for name in ("src_lang", "tgt_lang") if name in self.settings.options
        }
        shown["special_tokens"] = self.special_tokens_map
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @in_turn
    def _run(self, text: Any, text_pair: Any, wish: Wish, *, template: Any) -> BatchEncoding:
        texts = as_texts(text, text_pair, is_split_into_words=wish.is_split_into_words)
        limits = resolve_limits(wish.limits, self.facts())
        split = self.settings.options.get("split_special_tokens", False)
        with self._runner.template(template):
            encodings = self._runner.encode(
                texts,
                limits,
                Pad(id=self.pad_token_id or 0, token=self.pad_token or "") if limits.pads else None,
                add_special_tokens=wish.add_special_tokens,
                is_split_into_words=wish.is_split_into_words,
                split_special_tokens=bool(split if wish.split_special_tokens is None else wish.split_special_tokens),
            )
        if wish.verbose and limits.max_length is None:
            self._warn_too_long(encodings)
        return collect(encodings, wish.columns, is_batch=texts.is_batch or wish.keep_batch)

    def _wants(self, column: str, asked: bool | None) -> bool:
        return column in self.model_input_names if asked is None else asked

    @in_turn
    def facts(self) -> Facts:
        """What decides whether padding and truncation can be had."""
        return Facts(
            model_max_length=self.model_max_length,
            padding_side=self.padding_side,
            truncation_side=self.truncation_side,
            pad_token=self.pad_token,
            pad_token_id=self.pad_token_id,
        )

    def _take_over_limits(self) -> None:
        """Let the file's padding and truncation name defaults, then switch them off: every call sets its own."""
        options, backend = self.settings.options, self.backend
        padding, truncation = limits_of(backend)
        set_limits(backend, None, None)
        if padding is not None:
            self.settings.named.setdefault("pad_token", padding["pad_token"])
            options.setdefault("padding_side", padding["direction"])
        if truncation is not None:
            options.setdefault("truncation_side", truncation["direction"])
        self.padding_side = options.pop("padding_side", self.padding_side)
        self.truncation_side = options.pop("truncation_side", self.truncation_side)
        self.model_input_names = _names(options.get("model_input_names") or self.model_input_names)
        length_limit(options.get("model_max_length"))

    def _warn_too_long(self, encodings: list[Encoding]) -> None:
        longest = max((len(encoding) for encoding in encodings), default=0)
        if longest > self.model_max_length and not self._warned_long:
            self._warned_long = True
            warn(
                f"a text has {longest} tokens, but the model takes {self.model_max_length}. "
                "Pass truncation=True, or set tokenizer.model_max_length if the model takes more."
            )


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TokenizerError(f"model_input_names = {value!r}, expected a list of names.")
    return names
