"""`Tokenizer`: converts text to ids and back, with the call signature of transformers' tokenizers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from tokenizers import Encoding

from conjoin.errors import TokenizerError, warn
from conjoin.tokenizer.batch import BatchEncoding, TensorKind
from conjoin.tokenizer.files.load import load
from conjoin.tokenizer.files.save import save
from conjoin.tokenizer.formats.find import Source
from conjoin.tokenizer.limits import IS_LIMIT, LimitArguments, LimitDefaults, resolve_limits
from conjoin.tokenizer.pad import array_kind, as_columns, pad_columns
from conjoin.tokenizer.pipeline import Pipeline
from conjoin.tokenizer.run import Columns, EncodeOptions, Pad, Pieces, Runner, collect
from conjoin.tokenizer.rust import in_turn
from conjoin.tokenizer.texts import Texts, as_texts


class Tokenizer(Pipeline):
    """Any tokenizer that a `tokenizer.json` describes; families with older files are subclasses in families.py.

    Ids and decoded text are those of the file; without a file, those of transformers' fast tokenizers. Calls, settings,
    copies, loading and saving are thread-safe: each is atomic.
    """

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
        """Load from a folder, a file or a hub id: tokenizer.json as it is written, or the family's older files.

        Args:
            overrides: any keys of tokenizer_config.json, which win over it, such as `pad_token="<pad>"`.
                Those about the pipeline, such as `do_lower_case=True`, change that of tokenizer.json, or are refused.
        Raises:
            FileError: the folder, file or repository does not exist.
            TokenizerError: files are missing, unreadable or belong to another family.
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

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write tokenizer.json and tokenizer_config.json, readable by conjoin and by transformers.

        Returns:
            The paths written.
        Raises:
            FileError: the folder cannot be written.
        """
        return save(self, Path(save_directory))

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
            text: a string or a list of strings; with `is_split_into_words`, lists of words instead of strings.
            text_target: target texts; with `text`, their ids are returned as `labels`.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", or False.
            max_length: length for truncation and for padding="max_length"; on its own, it truncates.
            max_target_length: `max_length` for the targets.
            return_tensors: "pt", "np", "jax" or "tf"; None gives lists.
        Raises:
            TokenizerError: the input is not text, or settings cannot be applied; the message says which.
        """
        if text is None and text_target is None:
            raise TokenizerError("neither text nor text_target was given.", hint="tokenizer(texts)")
        options = EncodeOptions(
            limits=LimitArguments(
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
        target_options = options if max_target_length is None else options.with_max_length(max_target_length)
        if text is None:
            return self.run_target(text_target, text_pair_target, target_options).convert_to_tensors(return_tensors)
        with self.lock:  # sources and targets by the same settings
            batch = self.run(text, text_pair, options)
            if text_target is not None:
                batch["labels"] = self.run_target(text_target, text_pair_target, target_options)["input_ids"]
        return batch.convert_to_tensors(return_tensors)

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **kwargs: Any) -> Any:
        """Return the ids only; takes every argument of a call."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **kwargs)["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Return the tokens of one text as strings."""
        return self(text, pair, add_special_tokens=add_special_tokens, verbose=False).tokens()

    def run(self, text: Any, text_pair: Any, options: EncodeOptions) -> BatchEncoding:
        """Tokenize with these settings; return lists, never tensors."""
        return self._run(text, text_pair, options, is_target=False)

    @in_turn
    def run_target(self, text: Any, text_pair: Any, options: EncodeOptions) -> BatchEncoding:
        """Tokenize target texts: as `run`, with the tokens of the target language if the family has them."""
        return self._run(text, text_pair, options, is_target=True)

    def target_template(self) -> Any:
        """Return the post-processor of target texts; None if it is that of all texts."""
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
        """Pad one row of ids or many, as a data collator does; unknown columns are not changed.

        Raises:
            TokenizerError: there are no input_ids or no pad token, or the rows cannot become an array.
        """
        del verbose
        kind = return_tensors or cast(TensorKind | None, array_kind(encoded_inputs))
        settings = LimitArguments(
            padding=padding,
            truncation=False,
            max_length=max_length if padding == "max_length" else None,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
        )
        limits = resolve_limits(settings, self.limit_defaults())
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
    def _run(self, text: Any, text_pair: Any, options: EncodeOptions, *, is_target: bool) -> BatchEncoding:
        texts = as_texts(text, text_pair, is_split_into_words=options.is_split_into_words)
        limits = resolve_limits(options.limits, self.limit_defaults())
        split = self.settings.options.get("split_special_tokens", False)
        split = bool(split if options.split_special_tokens is None else options.split_special_tokens)
        pieces = self.cut(
            texts,
            is_target=is_target,
            framed=options.add_special_tokens,
            is_split_into_words=options.is_split_into_words,
            split_special_tokens=split,
        )
        runner = self.runner_of(is_target=is_target)
        with runner.template(self.target_template() if is_target else None):
            encodings = runner.encode(
                texts if pieces is None else pieces.texts,
                limits,
                Pad(id=self.pad_token_id or 0, token=self.pad_token or "") if limits.pads else None,
                add_special_tokens=options.add_special_tokens,
                is_split_into_words=options.is_split_into_words or pieces is not None,
                split_special_tokens=split,
            )
        if options.verbose and limits.max_length is None:
            self._warn_too_long(encodings)
        restore = None if pieces is None else pieces.restore
        return collect(encodings, options.columns, is_batch=texts.is_batch or options.keep_batch, restore=restore)

    def runner_of(self, *, is_target: bool) -> Runner:
        """Return what runs the pipeline of texts, or of target texts."""
        del is_target
        return self._runner

    def cut(
        self, texts: Texts, *, is_target: bool, framed: bool, is_split_into_words: bool, split_special_tokens: bool
    ) -> Pieces | None:
        """Return texts in pieces if the family makes these before the Rust pipeline; None if that pipeline does."""
        del texts, is_target, framed, is_split_into_words, split_special_tokens
        return None

    def _wants(self, column: str, requested: bool | None) -> bool:
        return column in self.model_input_names if requested is None else requested

    @in_turn
    def limit_defaults(self) -> LimitDefaults:
        """Return the properties that limit padding and truncation."""
        return LimitDefaults(
            model_max_length=self.model_max_length,
            padding_side=self.padding_side,
            truncation_side=self.truncation_side,
            pad_token=self.pad_token,
            pad_token_id=self.pad_token_id,
        )

    def _warn_too_long(self, encodings: list[Encoding]) -> None:
        longest = max((len(encoding) for encoding in encodings), default=0)
        if longest > self.model_max_length and not self._warned_long:
            self._warned_long = True
            warn(
                f"a text has {longest} tokens, but the model takes {self.model_max_length}. "
                "Pass truncation=True, or set tokenizer.model_max_length if the model takes more."
            )
