"""What a family is: the roles that it plays, its config and stacks, and the names of its tensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.errors import JoinError
from conjoin.families.config import PretrainedConfig

Role = Literal["encoder", "decoder"]

WORDS = "embed.words.weight"
REPLACEMENT = "embed.replacement"
HEAD = "head.vocab.weight"
_TEXT = "language_model."
"""What multimodal checkpoints put before the names of their text part (`wrappers.py`)."""
LM_HEAD = NameTable((Rule("lm_head.weight", HEAD),))
"""The usual name of the vocabulary matrix; files lack it where it is tied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """How a whole seq2seq checkpoint (BART, T5) is laid out.

    Args:
        architecture: Class name that transformers gives it.
        encoder, decoder: Prefix of each half's body.
        configs: Where config.json has the config of each half: names of objects within objects, with dots. A role that
            is not named is described by the config itself.
        shared: Name of the word table that both halves read; None where it has the names of the halves' own alone.
        prefix: What the class with a head puts before bodies and the word table ("model."), and the bare one does not.
        head: Table of the head, with canonical names as in a decoder.
        unsaved: What transformers' class has besides and our files lack, in words ("the vision tower").
        unread: What the names of its tensors begin with, behind the prefix. Files keep them that lose layers.
        fixed_bias: The head adds a stored bias that is never trained (BART).
        words: "shared" if both halves always read one word table, "tied" if they do where the config ties words, "own"
            if they never do.
        sharing: Field of the config that can deny the one word table, whatever `words` says (Marian).
        computed: Names within a half that files with a head lack, because they can be computed (Marian's positions).
        start: What a target starts with: the pair's start id, or its own last label (mBART's language code).
    """

    architecture: str
    encoder: str
    decoder: str
    configs: Mapping[Role, str] = field(default_factory=dict[Role, str])
    shared: str | None = None
    prefix: str = ""
    head: NameTable = LM_HEAD
    unsaved: str = ""
    unread: tuple[str, ...] = ()
    fixed_bias: bool = False
    words: Literal["shared", "tied", "own"] = "shared"
    start: Literal["id", "last_label"] = "id"
    sharing: str | None = None
    computed: tuple[str, ...] = ()

    def half(self, role: Role) -> str:
        """Prefix of one half's body."""
        return self.encoder if role == "encoder" else self.decoder

    def leaves_unread(self, name: str) -> bool:
        """True for a tensor of a part that conjoin does not have."""
        return name.removeprefix(self.prefix).startswith(self.unread)

    def has_one_table(self, config: PretrainedConfig) -> bool:
        """True if both halves read one word table."""
        told = self.words == "shared" or (self.words == "tied" and config.tie_word_embeddings)
        return told and self.may_share(config)

    def may_share(self, config: PretrainedConfig) -> bool:
        """True if a config does not deny the one word table."""
        return self.sharing is None or bool(getattr(config, self.sharing))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One checkpoint family: config -> spec, and its tensor names.

    Args:
        encoder: "native" reads both ways as trained; "bidirectional" is a causal LM with its mask lifted
            (T5Gemma, arXiv:2504.06225); "half" is the encoder of a seq2seq checkpoint; None: it cannot be an encoder.
        decoder: "own" if its checkpoints can hold cross-attention, "half" if they always do, "grafted" if never;
            None: it cannot be a decoder.
        build: Builds the spec of a role. Cross-attention only for "own" and "half", and only if the config's
            `add_cross_attention` asks for it.
        body: Tensor names of the stack without its head, as the bare model class saves them.
        head: Tensor names of the head.
        prefixes: What checkpoints may put before body names, longest first; "" is always tried last.
        encoder_architecture, decoder_architecture: Class names in transformers; None where it has no such class.
        encoder_prefix, decoder_prefix: What transformers' AutoModel and AutoModelForCausalLM put there; the latter is
            the first of `prefixes` if None.
        word_aliases: Other names of the word table, in checkpoints that hold more than this stack.
        num_layers: Field of the half's config that holds each role's number of layers.
        vocab_size: Field of the half's config that holds each role's number of tokens.
        whole: Layout of whole seq2seq checkpoints, where the family has them.
        generation: Settings of `generate` that transformers' class of the config has by default: its config.json holds
            them though nobody chose them.
        known: Hub ids of checkpoints that are known to be of it.
    """

    config: type[PretrainedConfig]
    encoder: Literal["native", "bidirectional", "half"] | None
    decoder: Literal["own", "grafted", "half"] | None
    encoder_architecture: str | None
    decoder_architecture: str | None = None
    build: Callable[[Any, Role], spec.StackSpec]
    body: Callable[[spec.StackSpec], NameTable]
    head: Callable[[spec.StackSpec], NameTable] = lambda stack: LM_HEAD
    prefixes: tuple[str, ...] = ()
    encoder_prefix: str = ""
    decoder_prefix: str | None = None
    word_aliases: tuple[str, ...] = ()
    num_layers: Mapping[Role, str] = field(
        default_factory=lambda: {"encoder": "num_hidden_layers", "decoder": "num_hidden_layers"}
    )
    vocab_size: Mapping[Role, str] = field(default_factory=lambda: {"encoder": "vocab_size", "decoder": "vocab_size"})
    whole: Whole | None = None
    generation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    known: tuple[str, ...] = ()

    def stack(self, config: PretrainedConfig, role: Role) -> spec.StackSpec:
        """Return the spec of one role.

        Raises:
            JoinError: the family cannot play this role.
        """
        if (self.encoder if role == "encoder" else self.decoder) is None:
            other = "decoder" if role == "encoder" else "encoder"
            raise JoinError(
                f"{self.model_type} cannot be the {role} of a pair, only the {other}.",
                hint="`conjoin families` lists what each family can be.",
            )
        return self.build(config, role)

    def vocab_size_of(self, config: PretrainedConfig, role: Role) -> int:
        """The number of tokens of one role, where a config may leave the decoder's to the encoder's."""
        half = self.half(config, role)
        return getattr(half, self.vocab_size[role]) or getattr(half, self.vocab_size["encoder"])

    def with_own_words(self, config: PretrainedConfig) -> PretrainedConfig:
        """The config of a decoder alone: its number of tokens is the only one, as transformers' causal LMs have it."""
        sizes = dict.fromkeys(self.vocab_size.values(), self.vocab_size_of(config, "decoder"))
        return config.copy(**sizes) if len(sizes) > 1 else config

    @property
    def held_by_transformers(self) -> bool:
        """True if transformers' EncoderDecoderModel can use it as its decoder."""
        return self.decoder in ("own", "half") and self.decoder_architecture is not None

    @property
    def model_type(self) -> str:
        """The name in config.json."""
        return self.config.model_type

    def half(self, config: PretrainedConfig, role: Role) -> PretrainedConfig:
        """The config of one half: an object within a whole model's config, or that config itself."""
        for name in self._path(role):
            config = getattr(config, name)
        return config

    def with_half(self, config: PretrainedConfig, role: Role, **changes: Any) -> PretrainedConfig:
        """A copy of a config in which some fields of one half have changed."""
        if not self._path(role):
            return config.copy(**changes)
        values = inner = config.to_dict()
        for name in self._path(role):
            inner = inner[name]
        inner |= changes
        return type(config).from_dict(values)

    def _path(self, role: Role) -> list[str]:
        where = self.whole.configs.get(role, "") if self.whole else ""
        return where.split(".") if where else []

    def names(self, stack: spec.StackSpec, role: Role, config: PretrainedConfig) -> NameTable:
        """The names that transformers' classes give this role, for writing and for composite checkpoints."""
        prefix = self.encoder_prefix if role == "encoder" else self.decoder_prefix
        prefix = next(iter(self.prefixes), "") if prefix is None else prefix
        table = self.body(stack).with_prefix(prefix, "")
        if self.whole and self.whole.shared and role == "encoder" and self.whole.may_share(config):
            table = NameTable((Rule(self.whole.shared, "embed.words.weight"),)) + table
        table = table + self.head(stack) if role == "decoder" else table
        return table + graft_names(stack, self)

    def names_in(
        self, stack: spec.StackSpec, role: Role, found: set[str], *, config: PretrainedConfig | None = None
    ) -> NameTable:
        """The names to read a standalone (or a whole) checkpoint with, whichever of its prefixes it uses.

        Args:
            config: Tells if one tensor stands for several: the head for the word table, or one half's for the other's.
        """
        tied = config is not None and config.tie_word_embeddings
        body, table = self.body(stack), NameTable()
        half = self.whole.half(role) if self.whole else ""
        for prefix in self._places:
            candidate = body.with_prefix(prefix + half, "")
            if any(candidate.match(name) for name in found):
                table = candidate
                break
        others, head = self._others(body, role, config), self._head_name(stack, role, tied)
        tables = {rule.checkpoint for rule in others if rule.parts == (WORDS,)}
        lacking = not any(match.canonical == (WORDS,) for match in table.canonical(found).matches)
        first = (Rule(head, WORDS),) if head and lacking and not found & tables else ()
        heads = self.head(stack) + self.head(stack).with_prefix(_TEXT, "")
        return NameTable(first) + table + heads + graft_names(stack, self) + NameTable(others)

    @property
    def _places(self) -> tuple[str, ...]:
        """What may stand before body names: in a file of this family, and in one of which it is the text part."""
        own = (*self.prefixes, "")
        return (*own, *(_TEXT + prefix for prefix in own), f"model.{_TEXT}")

    def _others(self, body: NameTable, role: Role, config: PretrainedConfig | None) -> tuple[Rule, ...]:
        """Other names of what halves share, which count where it does not stand under its own: words, mostly."""
        aliases = tuple(Rule(name, WORDS) for name in self.word_aliases)
        whole = self.whole
        if whole is None or not (whole.words == "shared" if config is None else whole.has_one_table(config)):
            return aliases
        other = whole.half("decoder" if role == "encoder" else "encoder")
        shared = [rule for rule in body.rules if rule.parts in ((WORDS,), (REPLACEMENT,))]
        places = [prefix + other for prefix in (*self.prefixes, "")]
        return (*aliases, *(Rule(place + rule.checkpoint, rule.canonical) for rule in shared for place in places))

    def _head_name(self, stack: spec.StackSpec, role: Role, tied: bool) -> str | None:
        """The head's matrix, where it is the word table too."""
        if not tied or (role == "encoder" and (self.whole is None or self.whole.words == "own")):
            return None
        table = self.whole.head if self.whole else self.head(stack)
        return next((rule.checkpoint for rule in table.rules if rule.parts == (HEAD,)), None)


def causal_lm(
    config: type[PretrainedConfig],
    name: str,
    build: Callable[[Any, Role], spec.StackSpec],
    body: Callable[[spec.StackSpec], NameTable],
    **more: Any,
) -> Family:
    """Return a family of causal LMs: its encoder is one with the mask lifted, its cross-attention is grafted in.

    Args:
        name: What its classes in transformers begin with.
        more: Fields of `Family` that it adds or changes.
    """
    usual: dict[str, Any] = {
        "encoder_architecture": f"{name}Model",
        "decoder_architecture": f"{name}ForCausalLM",
        "prefixes": ("model.",),
    }
    return Family(
        config=config, encoder="bidirectional", decoder="grafted", build=build, body=body, **{**usual, **more}
    )


def masked_lm(
    config: type[PretrainedConfig],
    name: str,
    build: Callable[[Any, Role], spec.StackSpec],
    body: Callable[[spec.StackSpec], NameTable],
    *,
    decoder: Literal["own", "grafted"] | None,
    **more: Any,
) -> Family:
    """Return a family of masked LMs: its encoder reads both ways as trained.

    Args:
        name: What its classes in transformers begin with; only with `decoder="own"` is a causal LM of it among them.
        more: Fields of `Family` that it adds or changes.
    """
    usual: dict[str, Any] = {
        "encoder_architecture": f"{name}Model",
        "decoder_architecture": f"{name}ForCausalLM" if decoder == "own" else None,
    }
    return Family(config=config, encoder="native", decoder=decoder, build=build, body=body, **{**usual, **more})


def whole_names(family: Family, pair: spec.PairSpec, found: set[str] | None = None) -> NameTable:
    """The names of a whole seq2seq checkpoint, under canonical pair names.

    Args:
        found: Names in the checkpoint to read; None to write.
    """
    whole = family.whole
    assert whole is not None
    prefix = whole.prefix
    if found is not None and not any(name.startswith(prefix) for name in found):
        prefix = ""
    encoder = family.body(pair.encoder).with_prefix(prefix + whole.encoder, "encoder.")
    decoder = family.body(pair.decoder).with_prefix(prefix + whole.decoder, "decoder.")
    table = encoder + decoder + whole.head.with_prefix("", "decoder.")
    table += NameTable(computed=tuple(f"{half}.{name}" for half in ("encoder", "decoder") for name in whole.computed))
    shared = () if whole.shared is None else (prefix + whole.shared, whole.shared)
    if pair.share == "none":
        ignored = NameTable(ignored=tuple(map(re.escape, shared[:1])))
        return _head_for_words(table, pair, found or set()) + ignored + table
    words = f"encoder.{WORDS}"
    if found is None:
        return NameTable(tuple(Rule(name, words) for name in shared[:1])) + table
    kept = _word_name(table, shared, found, tied=pair.decoder.head is not None and pair.decoder.head.tied)
    return NameTable((Rule(kept, words),)) + table + NameTable(tuple(Rule(name, words) for name in shared))


def _head_for_words(table: NameTable, pair: spec.PairSpec, found: set[str]) -> NameTable:
    """The head as the decoder's words, where it is tied to them and a file kept its name alone."""
    names = {match.canonical[0]: match.name for match in table.canonical(found).matches}
    words, head = (f"{where}.weight" for where in _IN_DECODER)
    tied = pair.decoder.head is not None and pair.decoder.head.tied
    return NameTable((Rule(names[head], words),) if tied and head in names and words not in names else ())


def _word_name(table: NameTable, shared: tuple[str, ...], found: set[str], *, tied: bool) -> str:
    """Where the word table of a whole checkpoint stands: files keep one of its names, not always the first."""
    names = {match.canonical[0]: match.name for match in table.canonical(found).matches}
    encoder, decoder, head = (names.get(f"{where}.weight") for where in ("encoder.embed.words", *_IN_DECODER))
    every = (encoder, *(name for name in shared if name in found), decoder, head if tied else None)
    first = shared or [rule.checkpoint for rule in table.rules if rule.parts == (f"encoder.{WORDS}",)]
    return next((name for name in every if name is not None), first[0])


_IN_DECODER = ("decoder.embed.words", "decoder.head.vocab")


def graft_names(stack: spec.StackSpec, family: Family) -> NameTable:
    """Grafted cross-attention, and any gate, has no name in the family's files; it is saved under its canonical one."""
    if not stack.has_cross_attention:
        return NameTable()
    grafted, parameters = family.decoder == "grafted", spec.stack_parameters(stack)
    nameless = [n for n, p in parameters.items() if (p.part == "cross_attention" if grafted else p.kind == "gate")]
    return NameTable(tuple(Rule(name, name) for name in nameless))
