"""`TokenizerPair`: one tokenizer for sources, another for targets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from conjoin.errors import FileError, TokenizerError
from conjoin.tokenizer.batch import BatchEncoding, TensorKind
from conjoin.tokenizer.files.load import load_files
from conjoin.tokenizer.files.save import to_json, write_text
from conjoin.tokenizer.formats.find import PAIR_FILE, TARGET_FOLDER, Files, Source, find_files
from conjoin.tokenizer.formats.read import read_json
from conjoin.tokenizer.limits import LimitArguments, LimitDefaults, Limits, resolve_limits
from conjoin.tokenizer.pad import array_kind, as_columns, as_lists, fill_row, pad_columns, target_size
from conjoin.tokenizer.registry import class_for
from conjoin.tokenizer.run import Columns, EncodeOptions
from conjoin.tokenizer.template import SourceTemplate
from conjoin.tokenizer.texts import is_many
from conjoin.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRules:
    """How target ids become labels. labels[t] is what target position t must predict.

    Attributes:
        target_eos: end every target in eos (sep if there is no eos), appended if the target's tokenizer does not add
            it: GPT-2's and Llama's do not, and a model trained without it never stops.
        target_bos: keep the bos or cls that the target's tokenizer puts first. False, because the decoder already
            starts from that token and would learn to repeat it. Set it for checkpoints that were trained on
            `tokenizer(text).input_ids` as labels, such as the bert2bert ones on the hub.
        label_pad_token_id: id that pads labels; the loss ignores -100, which cannot be mistaken for an eos.
    """

    target_eos: bool = True
    target_bos: bool = False
    label_pad_token_id: int = -100

    def check(self) -> None:
        """Check the types of all values, which may come from a file.

        Raises:
            TokenizerError: a value has the wrong type, or is too large for an id.
        """
        for name, value in asdict(self).items():
            kind, expected = (int, "an id") if name == "label_pad_token_id" else (bool, "true or false")
            if type(value) is not kind or abs(value) >= 1 << 31:
                raise TokenizerError(f"{name} = {str(value)[:40]!r}, expected {expected}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRules:
    """How source texts become ids.

    Attributes:
        source_template: prompt around every source: text with {source} in it; or "chat", the tokenizer's own chat
            template; or "chat: " and such a text, for the user's turn of it.
        target_start_id: the id that starts targets. A source that ends in it leaves it to the target, so that a model
            which reads both as one text reads it once.
        template_date: the day (ISO 8601) that a chat template writes as today's, for good: that on which it was set.
    """

    source_template: str | None = None
    target_start_id: int | None = None
    template_date: str | None = None

    def check(self) -> None:
        """Check the types of all values, which may come from a file.

        Raises:
            TokenizerError: a value has the wrong type.
        """
        for name, kind in (("source_template", str), ("target_start_id", int), ("template_date", str)):
            value = getattr(self, name)
            if value is not None and type(value) is not kind:
                raise TokenizerError(f"{name} = {str(value)[:40]!r}, expected {kind.__name__} or null.")


class _TargetToken(Generic[T]):
    """A special token of the pair, which is the target's: labels and generation use that one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pair: "TokenizerPair", owner: type) -> T | None:
        return getattr(pair.target, self._name)


class TokenizerPair:
    """Tokenizes texts with `source` and target texts with `target`; decodes with `target`. Call it like one tokenizer.

    It is saved in the model's folder: the source's files at the top, where transformers' AutoTokenizer finds them, the
    target's in `target_tokenizer/`, the options in `tokenizer_pair.json`.
    """

    bos_token, bos_token_id = _TargetToken[str](), _TargetToken[int]()
    eos_token, eos_token_id = _TargetToken[str](), _TargetToken[int]()
    unk_token, unk_token_id = _TargetToken[str](), _TargetToken[int]()
    sep_token, sep_token_id = _TargetToken[str](), _TargetToken[int]()
    pad_token, pad_token_id = _TargetToken[str](), _TargetToken[int]()
    cls_token, cls_token_id = _TargetToken[str](), _TargetToken[int]()
    mask_token, mask_token_id = _TargetToken[str](), _TargetToken[int]()
    start_token_id, end_token_id = _TargetToken[int](), _TargetToken[int]()

    def __init__(
        self,
        source: Tokenizer,
        target: Tokenizer,
        *,
        target_eos: bool = True,
        target_bos: bool = False,
        label_pad_token_id: int = -100,
        source_template: str | None = None,
        target_start_id: int | None = None,
        template_date: str | None = None,
    ) -> None:
        """See `LabelRules` and `SourceRules` for the options.

        Raises:
            TokenizerError: `target_eos` is True, but the target has neither eos nor sep; or the template is unusable.
        """
        self.source, self.target = source, target
        rules = SourceRules(
            source_template=source_template, target_start_id=target_start_id, template_date=template_date
        )
        rules.check()
        self.template = None
        if source_template is not None:
            self.template = SourceTemplate.of(source_template, source, template_date)
            rules = replace(rules, template_date=self.template.date)
        self.source_rules = rules
        self.rules = LabelRules(target_eos=target_eos, target_bos=target_bos, label_pad_token_id=label_pad_token_id)
        self.rules.check()
        if target_eos and target.end_token_id is None:
            raise TokenizerError(
                f"the target {target!r} has no eos and no sep token, so labels cannot end in one.",
                hint="target.add_special_tokens({'eos_token': '</s>'}), or TokenizerPair(..., target_eos=False); "
                'without Python, write "eos_token" into its tokenizer_config.json.',
            )

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
    ) -> "TokenizerPair":
        """Load a pair that `save_pretrained` wrote.

        Args:
            overrides: options of `LabelRules` and `SourceRules`, which win over the file.
        Raises:
            FileError: the folder holds no pair.
        """
        source = Source(
            name=name_or_folder,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        return load_pair(find_files(source).folder, overrides)

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write both tokenizers and the options; return the paths written."""
        folder = Path(save_directory)
        written = self.source.save_pretrained(folder) + self.target.save_pretrained(folder / TARGET_FOLDER)
        # written last, so that an incomplete folder has no such file
        return (*written, write_text(folder / PAIR_FILE, to_json({"version": 1, **self._options()})))

    def _options(self) -> dict[str, Any]:
        """Return the options that the pair's file holds."""
        more = {name: value for name, value in asdict(self.source_rules).items() if value is not None}
        return {**asdict(self.rules), **more}

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
        *,
        max_target_length: int | None = None,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: TensorKind | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Tokenize texts with the source and `text_target` with the target.

        Args:
            text_target: becomes `labels`, padded on the right with `label_pad_token_id`. Without `text`, the target
                ids are returned as `input_ids` with an `attention_mask`, padded with the target's pad token.
            max_length: limit of both sides; `max_target_length` overrides it for the targets, eos included.
            kwargs: every other argument of `Tokenizer.__call__`, passed to the source.
        Raises:
            TokenizerError: as `Tokenizer.__call__`.
        """
        if text is None and text_target is None:
            raise TokenizerError("neither text nor text_target was given.", hint="pair(texts, text_target=targets)")
        if text_target is not None and kwargs.get("return_overflowing_tokens"):
            raise TokenizerError(
                "return_overflowing_tokens=True cuts a text into rows that its one target cannot follow."
            )
        limits = LimitArguments(
            padding=padding, truncation=truncation, max_length=max_length, pad_to_multiple_of=pad_to_multiple_of
        )
        batch = BatchEncoding()
        if text is not None:
            settings: dict[str, Any] = {"add_special_tokens": add_special_tokens, **kwargs}
            settings["is_split_into_words"] = is_split_into_words
            if self.source_rules == SourceRules():
                batch = self.source(text, text_pair, **asdict(limits) | settings)
            else:
                batch = self._sources(text, text_pair, limits, settings)
        if text_target is not None:
            call = EncodeOptions(
                limits=limits if max_target_length is None else replace(limits, max_length=max_target_length),
                columns=Columns(token_type_ids=False, attention_mask=False),
                add_special_tokens=add_special_tokens,
                is_split_into_words=is_split_into_words,
            )
            batch.update(self._targets(text_target, text_pair_target, call, as_labels=text is not None))
        is_batch = is_many(text_target if text is None else text, is_split_into_words=is_split_into_words)
        if return_tensors is not None and not is_batch:
            batch = BatchEncoding({key: [value] for key, value in batch.items()}, batch.encodings)
        return batch.convert_to_tensors(return_tensors)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: TensorKind | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Pad rows as a data collator does: `labels` by the pair's rules, everything else as the source pads."""
        kind = return_tensors or cast(TensorKind | None, array_kind(encoded_inputs))
        columns = as_columns(encoded_inputs)
        labels = columns.pop("labels", None)
        batch = self.source.pad(
            columns, padding, max_length=max_length, pad_to_multiple_of=pad_to_multiple_of, **kwargs
        )
        if labels is not None:
            settings = LimitArguments(
                padding=padding,
                max_length=max_length if padding == "max_length" else None,
                pad_to_multiple_of=pad_to_multiple_of,
            )
            limits = resolve_limits(settings, self._label_defaults())
            is_batch = isinstance(columns["input_ids"][0], list)
            padded = self._fill(labels if is_batch else [labels], limits)
            batch["labels"] = padded if is_batch else padded[0]
        return batch.convert_to_tensors(kind)

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Decode target ids; label padding is skipped."""
        ids = as_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        return self.target.decode(self._without_padding(ids), skip_special_tokens, clean_up_tokenization_spaces)

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """Decode rows of target ids; label padding is skipped."""
        rows = self._without_padding(as_lists(sequences))
        return self.target.batch_decode(rows, skip_special_tokens, clean_up_tokenization_spaces)

    @property
    def padding_side(self) -> str:
        """Padding side of the source; labels are always padded on the right."""
        return self.source.padding_side

    @property
    def model_max_length(self) -> int:
        """Maximum length of the source; the target's is `pair.target.model_max_length`."""
        return self.source.model_max_length

    @property
    def model_input_names(self) -> tuple[str, ...]:
        """Names of the source's model inputs."""
        return self.source.model_input_names

    def __repr__(self) -> str:
        rules = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"TokenizerPair(source={self.source!r}, target={self.target!r}, {rules})"

    def _sources(self, text: Any, text_pair: Any, arguments: LimitArguments, settings: dict[str, Any]) -> BatchEncoding:
        """Tokenize texts in their template, cut at the limit, without the id that starts the target."""
        limits = resolve_limits(arguments, self.source.limit_defaults())
        template, is_batch = self.template, is_many(text, is_split_into_words=settings["is_split_into_words"])
        odd = [name for name in ("is_split_into_words", "return_overflowing_tokens") if settings.get(name)]
        if template is not None and (text_pair is not None or odd):
            raise TokenizerError(
                f"A source_template takes plain texts; it got {', '.join(odd) or 'text_pair'}.",
                hint="pair.source(...) tokenizes without the template.",
            )
        if template is not None and not template.add_special_tokens:
            settings = {**settings, "add_special_tokens": False}
        texts: list[Any] = list(text) if is_batch else [text]
        room = limits.max_length if limits.truncates else None
        if room is None or template is None:
            more = {"truncation": arguments.truncation, "max_length": None if room is None else room + 1}
            read = texts if template is None else [template.render(each) for each in texts]
            columns = self._columns(read, text_pair, settings | (more if room is not None else {}))
        else:
            texts = [self._cut(each, room, settings) for each in texts]
            columns = self._columns([template.render(each) for each in texts], None, settings)
        if template is not None and "offset_mapping" in columns:
            columns["offset_mapping"] = [
                [template.place(each, *span) for span in row]
                for each, row in zip(texts, columns["offset_mapping"], strict=True)
            ]
        padded = self.source.pad(
            columns,
            arguments.padding,
            max_length=arguments.max_length,
            pad_to_multiple_of=arguments.pad_to_multiple_of,
        )
        return padded if is_batch else BatchEncoding({name: rows[0] for name, rows in padded.items()})

    def _columns(self, texts: list[Any], text_pair: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of texts, rows without padding, each without a last id that is the target's first."""
        pairs = [text_pair] if isinstance(text_pair, str) else text_pair
        plain: dict[str, Any] = {"truncation": False, "padding": False, "verbose": False}
        columns = dict(self.source(texts, pairs, **plain | settings))
        start, ids = self.source_rules.target_start_id, columns["input_ids"]
        if not ids:
            return columns
        keeps = [len(row) - (len(row) > 1 and row[-1] == start) for row in ids]
        limit = settings.get("max_length")
        if settings.get("truncation") and limit is not None:  # one id more was read, in case the last one leaves
            keeps = [min(keep, limit - 1) for keep in keeps]
        return {
            name: [row[:keep] for row, keep in zip(rows, keeps, strict=True)] if isinstance(rows[0], list) else rows
            for name, rows in columns.items()
        }

    def _cut(self, text: str, room: int, settings: dict[str, Any]) -> str:
        """Return a text, cut so that its row is no longer than `room` in its template.

        Raises:
            TokenizerError: the template alone is longer.
        """
        excess = self._length(text, settings) - room
        if excess <= 0:
            return text
        own = self.source(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans, keep, cut = own["offset_mapping"], len(own["input_ids"]), text
        while excess > 0:
            keep -= excess
            if keep < 1:
                raise TokenizerError(
                    f"max_length = {room} leaves no room for a source in its template "
                    f"{self.source_rules.source_template!r}.",
                    hint="raise it, or shorten the template.",
                )
            is_left = self.source.truncation_side == "left"
            cut = text[spans[len(spans) - keep][0] :] if is_left else text[: spans[keep - 1][1]]
            excess = self._length(cut, settings) - room
        return cut

    def _length(self, text: str, settings: dict[str, Any]) -> int:
        """Return the number of ids of a text in its template."""
        assert self.template is not None
        plain = {**settings, "return_offsets_mapping": False}
        return len(self._columns([self.template.render(text)], None, plain)["input_ids"][0])

    def _targets(self, text: Any, text_pair: Any, call: EncodeOptions, *, as_labels: bool) -> dict[str, Any]:
        with self.target.lock:  # no other thread may change the target between reading its frame and encoding
            return self._target_columns(text, text_pair, call, as_labels=as_labels)

    def _target_columns(self, text: Any, text_pair: Any, call: EncodeOptions, *, as_labels: bool) -> dict[str, Any]:
        defaults = self._label_defaults() if as_labels else self.target.limit_defaults()
        limits = resolve_limits(call.limits, defaults)
        frame = self._frame() if call.add_special_tokens else Frame()
        room = (
            None if limits.max_length is None or not limits.truncates else limits.max_length + frame.drops - frame.adds
        )
        if room is not None and room < 1:
            raise TokenizerError(f"max_length = {limits.max_length} leaves no room for a target and its end.")
        inner = replace(call, limits=LimitArguments(truncation=limits.truncation, max_length=room), keep_batch=True)
        rows = [frame.apply(row) for row in self.target.run_target(text, text_pair, inner)["input_ids"]]
        if as_labels:
            columns = {"labels": self._fill(rows, limits)}
        else:
            columns = pad_columns({"input_ids": rows}, limits, self.target.pad_token_id or 0, attention_mask=True)
        is_batch = is_many(text, is_split_into_words=call.is_split_into_words)
        return columns if is_batch else {key: value[0] for key, value in columns.items()}

    def _frame(self) -> "Frame":
        """Return how the rules change the special tokens that the target's tokenizer adds to a text."""
        probe = self.target.run_target("a", None, _PROBE)
        ids, mask = probe["input_ids"], probe["special_tokens_mask"]
        first, last = mask.index(0), len(mask) - mask[::-1].index(0)
        end = self.target.end_token_id
        has_start = bool(first) and ids[0] == self.target.start_token_id
        has_end = end in ids[last:]
        return Frame(
            drops=1 if has_start and not self.rules.target_bos else 0,
            end=end if self.rules.target_eos and not has_end else None,
        )

    def _fill(self, rows: list[list[int]], limits: Limits) -> list[list[int]]:
        """Pad labels, always on the right: the decoder starts at the left, whatever side the target pads."""
        if not limits.pads:
            return rows
        size = target_size([len(row) for row in rows], limits)
        return [fill_row(row, size, self.rules.label_pad_token_id, "right") for row in rows]

    def _label_defaults(self) -> LimitDefaults:
        """Return the target's defaults with the padding of labels, which needs no pad token."""
        return replace(self.target.limit_defaults(), pad_token="", pad_token_id=self.rules.label_pad_token_id)

    def _without_padding(self, ids: Any) -> Any:
        if isinstance(ids, list):
            items = [item for item in cast(list[Any], ids) if item != self.rules.label_pad_token_id]
            return [self._without_padding(item) for item in items]
        return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """How a target's ids become labels: the number of ids to drop in front, and the end id to append."""

    drops: int = 0
    end: int | None = None

    @property
    def adds(self) -> int:
        """Number of ids that `apply` appends at most."""
        return 0 if self.end is None else 1

    def apply(self, row: list[int]) -> list[int]:
        """Return the labels of one row; an end id that the text itself ends in is not repeated."""
        labels = row[self.drops :]
        return labels if self.end is None or labels[-1:] == [self.end] else [*labels, self.end]


_PROBE = EncodeOptions(
    limits=LimitArguments(),
    columns=Columns(token_type_ids=False, attention_mask=False, special_tokens_mask=True),
    verbose=False,
)


def load_pair(folder: Path, overrides: Mapping[str, Any]) -> TokenizerPair:
    """Load a pair from a local folder.

    Raises:
        FileError: a part of the pair is missing.
        TokenizerError: an option is unknown, or a later version wrote the file.
    """
    path, target = folder / PAIR_FILE, folder / TARGET_FOLDER
    if not path.is_file() or not target.is_dir():
        missing = PAIR_FILE if not path.is_file() else f"{TARGET_FOLDER}/"
        raise FileError(
            f"{folder}: no {missing}, so this is no tokenizer pair.",
            hint="AutoTokenizer.from_pretrained(folder) loads one tokenizer; pair.save_pretrained writes a pair.",
        )
    options = read_json(path)
    if options.pop("version", 1) != 1:
        raise TokenizerError(f"{path}: written by a later conjoin.", hint="pip install --upgrade conjoin")
    options |= overrides
    known = [field.name for kind in (LabelRules, SourceRules) for field in fields(kind)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TokenizerError(
            f"{folder}: a tokenizer pair has no option {', '.join(unknown)}; it has {', '.join(known)}."
        )
    source_tokenizer, target_tokenizer = (
        load_files(class_for(files), files, {}) for files in (Files(folder), Files(target))
    )
    return TokenizerPair(source_tokenizer, target_tokenizer, **options)
