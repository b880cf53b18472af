"""`Pipeline`: the Rust pipeline of a tokenizer and its settings; base class of the families."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError
from conjoin.tokenizer.decode import Decoding
from conjoin.tokenizer.formats.find import Files
from conjoin.tokenizer.formats.read import Vocabulary, read_byte_level, read_spm, read_wordpiece
from conjoin.tokenizer.formats.settings import Settings, Token
from conjoin.tokenizer.limits import length_limit
from conjoin.tokenizer.run import Runner
from conjoin.tokenizer.rust import in_turn, limits_of, set_limits

GENERIC_CLASS = "PreTrainedTokenizerFast"
"""transformers' class for any tokenizer.json."""
_defined: list[type["Pipeline"]] = []


class Pipeline(Decoding):
    """A Rust pipeline and its settings; subclasses define how a family builds it from older files."""

    kind: ClassVar[str | None] = None
    """The family's model: WordPiece, BPE or Unigram; None for any, which needs a tokenizer.json."""
    vocabulary_files: ClassVar[tuple[str, ...]] = ()
    """The files that the family reads if there is no tokenizer.json."""
    defaults: ClassVar[Mapping[str, Token | None]] = {}
    """Special tokens of the family if no file names them; None for one that it lacks, whatever padding a file sets."""
    switches: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the settings that `build` honours; None for strip_accents, whose default is do_lower_case."""
    without_prefix_space: ClassVar[Literal["never", "first"]] = "never"
    """The `prepend_scheme` that add_prefix_space=False stands for."""
    saved_class: ClassVar[str] = GENERIC_CLASS
    """The `tokenizer_class` that transformers knows for these files."""
    keeps_class: ClassVar[bool] = False
    """True if transformers needs the class even if it builds another pipeline, as for languages."""
    reads_raw: ClassVar[bool] = False
    """True if transformers reads the raw files only; they are then read before a tokenizer.json, and saved."""
    not_rebuilt: ClassVar[frozenset[str]] = frozenset()
    """Settings that `build` honours and transformers' class does not."""

    model_input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    truncation_side: str = "right"

    def __init__(self, backend: Backend, settings: Settings | None = None) -> None:
        """Wrap a Rust tokenizer; `from_pretrained` loads one from files."""
        self.settings = settings or Settings()
        self._runner = Runner(backend, self.settings.origin)
        self._warned_long = False
        self._take_over_limits()
        self.register_tokens()
        self.finish()

    @classmethod
    def read(cls, paths: Sequence[Path], files: Files, settings: Settings) -> Vocabulary:
        """Read the family's vocabulary files, whose `paths` are in the order of `vocabulary_files`."""
        del settings
        if not paths:
            return Vocabulary(origin=files.folder)  # a byte-level family needs no vocabulary file
        if cls.kind == "WordPiece":
            return read_wordpiece(paths[0])
        if cls.kind == "BPE" and len(paths) == 2:
            return read_byte_level(paths[0], paths[1])
        return read_spm(paths[0], as_bpe=cls.kind == "BPE")

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, settings: Settings) -> Self:
        """Make the tokenizer of a vocabulary."""
        return cls(cls.build(vocabulary, settings), settings)

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the Rust pipeline of the family from its vocabulary."""
        raise NotImplementedError

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        """Return the family's unnamed special tokens, merged with those that its files list."""
        del settings
        return listed

    @classmethod
    def extra_of_file(cls, backend: Backend, settings: Settings) -> list[Token] | None:
        """Return the family's unnamed special tokens that a tokenizer.json has."""
        del backend
        return cls.extra_tokens(settings.family_extra, settings)

    def frame(self) -> None:
        """Set the special tokens around a text; called if the class built the pipeline."""
        self.set_bos_eos_template()

    def finish(self) -> None:
        """Complete the pipeline for the family; called once every special token has its id."""

    @property
    def frames_itself(self) -> bool:
        """True if the family's settings, not the file, decide which special tokens are added to a text."""
        return False

    def counted(self) -> dict[str, int]:
        """Return the family's settings that are numbers of tokens, as counted in the vocabulary."""
        return {}

    @property
    def contents(self) -> Mapping[str, bytes]:
        """Contents of the family's raw files by name, if these are saved instead of a tokenizer.json."""
        return {}

    @property
    def backend(self) -> Backend:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The Rust tokenizer; access waits for calls in other threads."""
        return self._runner.backend

    @property
    def lock(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The lock that every call holds; `with tokenizer.lock:` makes several calls atomic."""
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
        """Maximum number of tokens per row; 1e30 if no file limits it."""
        return length_limit(self.settings.options.get("model_max_length"))

    @model_max_length.setter
    @in_turn
    def model_max_length(self, value: int) -> None:
        self.settings.options["model_max_length"] = length_limit(value)

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings from files and overrides, which are saved again."""
        return self.settings.options

    @property
    def vocab_size(self) -> int:
        """The number of ids without added tokens; `len(tokenizer)` counts those too."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of all tokens, added ones included."""
        return self.backend.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of added tokens, in order."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: index for index, token in sorted(added.items(), key=lambda item: item[0])}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens encoding adds to one text or to a pair."""
        return self.backend.num_special_tokens_to_add(pair)

    def _take_over_limits(self) -> None:
        """Use the file's padding and truncation as defaults, then disable them, since every call sets its own."""
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
        self.model_input_names = _as_names(options.get("model_input_names") or self.model_input_names)
        length_limit(options.get("model_max_length"))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _defined.append(cls)


def fitting(files: Files) -> list[str]:
    """Return the names of the families that read a folder's vocabulary files, the most general first."""
    names = set(files.names())
    families = [cls for cls in _defined if cls.saved_class != GENERIC_CLASS and cls.__module__.startswith("conjoin.")]
    fits = [cls for cls in families if cls.vocabulary_files and names.issuperset(cls.vocabulary_files)]
    return [cls.__name__ for cls in fits]


def _as_names(value: Any) -> tuple[str, ...]:
    names = tuple(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TokenizerError(f"model_input_names = {value!r}, expected a list of names.")
    return names
