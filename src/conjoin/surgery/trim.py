"""A smaller vocabulary: tokens that some texts never need are taken out of the tokenizers and the matrices."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from conjoin import spec
from conjoin.checkpoint import (
    TARGET_FOLDER,
    Checkpoint,
    Match,
    Staging,
    Tensor,
    Undo,
    open_checkpoint,
    read_json,
    write_json,
)
from conjoin.checkpoint.layouts import split
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, TokenizerError
from conjoin.families import PretrainedConfig, Role, family
from conjoin.join import OneFolder, half_spec, names_of_all, pair_spec
from conjoin.surgery.folder import Change, count_numbers, open_model, require_other_folder, write_model
from conjoin.surgery.ids import ids_in_use, with_new_ids
from conjoin.surgery.vocabulary import Side, Wanted
from conjoin.texts.pairs import Columns, read_pairs
from conjoin.texts.sources import SourceFile
from conjoin.texts.tables import kind_of
from conjoin.tokenizer import Tokenizer, TokenizerPair

Texts = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""A file of pairs, a file with one text per line, or rows in memory."""
GENERATION_FILE = "generation_config.json"
SHARED = "shared"
"""Name of a vocabulary that both halves have."""
_TRIES = 3
_VOCAB = ("embed.words.weight", "head.vocab.weight", "head.bias")
"""Parameters with one row per token."""


def trim(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    texts: Texts | Sequence[str | os.PathLike[str]],
    *,
    source_column: str = "source",
    target_column: str = "target",
    source_prefix: str = "",
    min_count: int = 1,
    keep: Sequence[str] = (),
    keep_size: int | None = None,
    pad_to_multiple_of: int = 1,
    max_shard_size: int | str = "5GB",
) -> Change:
    """Write a copy of a model with the tokens that some texts need, and what unknown texts are spelled with.

    Texts of the corpus get the same tokens, under new ids, and logits of the kept tokens stay the same numbers: greedy
    decoding writes the same words wherever these have tokens that are kept. Beam search and sampling compare
    probabilities, which dropped tokens no longer share.

    Args:
        model: Folder or hub id of a joined pair, a whole seq2seq model (BART, T5) or a single model, with tokenizers.
        out: Folder of the new model.
        texts: Files of pairs, as `conjoin train` reads them: sources are read by the encoder's tokenizer, targets by
            the decoder's. Files with one text per line, for both. Or rows in memory.
        source_prefix: Text before every source.
        min_count: Drop tokens that occur less often. Above 1, some texts of the corpus get other tokens.
        keep: Tokens to keep in any case, as the vocabulary spells them, or texts whose tokens are kept.
        keep_size: Number of tokens to keep of each vocabulary: the most frequent ones.
        pad_to_multiple_of: Keep a few more tokens, so that their number is a multiple of this.
        max_shard_size: Maximum size of a weight file.

    Returns:
        The new folder, and parameters before and after.

    Raises:
        TokenizerError: there is no tokenizer, or none whose vocabulary can lose tokens (bytes, characters).
        ConfigError: tokens that must stay are more than `keep_size`, or tables are shared by different tokenizers.
        DataError, FileError, WeightError: texts or model cannot be read, or the folder cannot be written.

    Example:
        conjoin.trim("run/model", "small", "train.jsonl")
    """
    wanted = Wanted(min_count=min_count, size=keep_size, multiple_of=pad_to_multiple_of, keep=tuple(keep))
    folder, config = open_model(model, "trimming")
    out = require_other_folder(out, folder)
    tokenizer = OneFolder(folder).load()
    sources, targets = _read(texts, Columns(source=source_column, target=target_column, prefix=source_prefix))
    if isinstance(tokenizer, TokenizerPair) and tokenizer.template is not None:
        sources = [tokenizer.template.render(source) for source in sources]
    with open_checkpoint(folder) as checkpoint:
        path = folder / GENERATION_FILE
        settings = read_json(path) if path.is_file() else None
        sides = _sides(config, tokenizer, sources, targets, settings or {})
        lines = [_choose(side, wanted) for side in dict.fromkeys(sides.values())]
        with tempfile.TemporaryDirectory() as scratch:
            lines += _write_tokenizers(Path(scratch), tokenizer, sides, exact=wanted.keeps_all_seen)
            new: dict[Role, dict[int, int]] = {
                role: {old: index for index, old in enumerate(side.kept)} for role, side in sides.items()
            }
            _renumber_start(Path(scratch), new["decoder"])
            smaller = _smaller_config(config, new)
            _require_same_positions(config, smaller)

            def beside(staging: Staging) -> None:
                _copy_all(Path(scratch), staging)
                if settings is not None:
                    write_json(staging.path(GENERATION_FILE), with_new_ids(settings, new["decoder"]))

            gathered = [_Gathered(checkpoint, match, sides) for match in _matches(checkpoint, config)]
            tensors = (each.tensor() for each in gathered)
            write_model(out, smaller, tensors, beside=beside, max_shard_size=max_shard_size)
        numbers = (count_numbers(checkpoint), sum(each.size for each in gathered))
    return Change(out, numbers, tuple(lines))


def _read(texts: Any, columns: Columns) -> tuple[list[str], list[str]]:
    """Return the texts that are sources, and those that are targets; lines of plain text are both."""
    listed: list[Any] = [texts] if isinstance(texts, str | Path) else list(texts)
    if listed and not all(isinstance(each, str | os.PathLike) for each in listed):
        pairs = read_pairs(listed, replace(columns, drop_empty=True), "the texts")
        return list(pairs.sources), list(pairs.targets)
    sources: list[str] = []
    targets: list[str] = []
    for path in map(str, listed):
        if kind_of(path) is None:
            file = SourceFile.of(path, "text", columns.source)
            file.check()
            lines = [text for text, _ in file.rows() if text.strip()]
            sources += [columns.prefix + line for line in lines]
            targets += lines
        else:
            pairs = read_pairs(path, replace(columns, drop_empty=True))
            sources, targets = [*sources, *pairs.sources], [*targets, *pairs.targets]
    if not sources:
        raise ConfigError("There are no texts to choose tokens by.", hint="--texts train.jsonl")
    return sources, targets


def _sides(
    config: PretrainedConfig,
    tokenizer: Tokenizer | TokenizerPair,
    sources: Sequence[str],
    targets: Sequence[str],
    generation: Mapping[str, Any],
) -> dict[Role, Side]:
    """Return the vocabulary of each half: one object where both have the same.

    Raises:
        ConfigError: the halves share a table, but their tokenizers differ.
    """
    source, target = _half(tokenizer, "encoder"), _half(tokenizer, "decoder")
    plain = config.to_dict()
    if isinstance(config, EncoderDecoderConfig):
        read, write = ids_in_use(config.encoder.to_dict()), ids_in_use(plain) | ids_in_use(config.decoder.to_dict())
        pair = pair_spec(config)
        stacks = {"encoder": pair.encoder, "decoder": pair.decoder}
        continues = isinstance(tokenizer, TokenizerPair) and tokenizer.source_rules.target_start_id is not None
        one = pair.share != "none" or source is target or continues  # the last source id is the target's first
    else:
        read = write = ids_in_use(plain)
        whole = family(config.model_type).whole is not None
        stacks = {
            "encoder": half_spec(config, "encoder") if whole else _single(config),
            "decoder": half_spec(config, "decoder") if whole else _single(config),
        }
        one = True
    write = write | ids_in_use(generation)
    halves: dict[Role, Side] = {}
    roles: list[tuple[Role, Tokenizer, tuple[Sequence[str], Sequence[str]], set[int]]] = [
        ("encoder", source, (sources, ()), read),
        ("decoder", target, ((), targets), write),
    ]
    for role, own, texts, used in roles:
        rows, position = stacks[role].vocab_size, stacks[role].embedding.position
        below = range(spec.padding_of_table(position) + 1)  # on which the table depends, so it must stay the same
        ids = {index for index in (*used, *below) if 0 <= index < rows}
        halves[role] = Side("source" if role == "encoder" else "target", own, own, *texts, rows=rows, in_use=ids)
    if not one:
        return halves
    if source.get_vocab() != target.get_vocab() or stacks["encoder"].vocab_size != stacks["decoder"].vocab_size:
        raise ConfigError(
            "The halves share a table of words, but their tokenizers have different vocabularies: one list of tokens "
            "cannot serve both.",
            hint="give the model one tokenizer: model.tokenizer = TokenizerPair(tokenizer, tokenizer), and save it.",
        )
    ids, rows = halves["encoder"].in_use | halves["decoder"].in_use, stacks["encoder"].vocab_size
    both = Side(SHARED, source, target, sources, targets, rows=rows, in_use=ids)
    return {"encoder": both, "decoder": both}


def _single(config: PretrainedConfig) -> spec.StackSpec:
    """Return a stack of a config that is not a pair's; both halves of a whole model have one vocabulary.

    Raises:
        ConfigError: they have not, and one pad id cannot have a new number in each.
    """
    kind = family(config.model_type)
    if kind.whole and kind.vocab_size_of(config, "encoder") != kind.vocab_size_of(config, "decoder"):
        raise ConfigError(
            f"{config.model_type}: a model of two vocabularies cannot be trimmed: its config has one pad id for both.",
            hint="join its halves first: conjoin join MODEL MODEL; a pair has ids for each half.",
        )
    return half_spec(config, "encoder" if kind.decoder is None or kind.whole else "decoder")


def _choose(side: Side, wanted: Wanted) -> str:
    """Choose a side's tokens, and say how many."""
    try:
        side.choose(wanted, side.count())
    except TokenizerError as error:
        if side.name == SHARED:
            raise
        side.kept = list(range(side.rows))
        return f"{side.name}: all {side.rows:,} tokens are kept: {str(error).partition(chr(10))[0]}"
    return f"{side.name}: {len(side.kept):,} of {side.rows:,} tokens are kept"


def _write_tokenizers(
    folder: Path, tokenizer: Tokenizer | TokenizerPair, sides: Mapping[Role, Side], *, exact: bool
) -> list[str]:
    """Write the smaller tokenizers, and compare what they make of the texts.

    Args:
        exact: Texts of the corpus must get the same tokens; tokens are added until they do.

    Returns:
        How many texts have other tokens than before, where some may.
    """
    tokenizer.save_pretrained(folder)
    places: list[tuple[Role, Path]] = [("encoder", folder)]
    if isinstance(tokenizer, TokenizerPair):
        places.append(("decoder", folder / TARGET_FOLDER))
    changed: dict[Side, list[str]] = {}
    for _ in range(_TRIES):
        for role, place in places:
            if len(sides[role].kept) < sides[role].rows:
                text = json.dumps(sides[role].document(_half(tokenizer, role)), ensure_ascii=False, indent=2)
                (place / "tokenizer.json").write_text(text, encoding="utf-8")
        loaded = OneFolder(folder).load()
        for role, side in sides.items():
            reader = _half(loaded, "encoder" if side.name == SHARED else role)
            changed[side] = side.changed(reader, _half(loaded, role))
        if not exact:
            return [
                f"{side.name}: {len(texts):,} of {len(side.sources) + len(side.targets):,} texts have other tokens now"
                for side, texts in changed.items()
            ]
        if not any(changed.values()):
            return []
        for side, texts in changed.items():
            if texts:
                side.keep_parts_of(texts)
    some = next(texts[0] for texts in changed.values() if texts)
    raise TokenizerError(
        f"The smaller tokenizer reads {some[:60]!r} differently, whatever is kept; nothing was written.",
        hint="this is a bug of conjoin: report it with the tokenizer.json.",
    )


def _renumber_start(folder: Path, new: Mapping[int, int]) -> None:
    """Give the id with which targets continue their sources its new number, where a pair of tokenizers has one."""
    path = folder / "tokenizer_pair.json"
    options = read_json(path) if path.is_file() else {}
    if (start := options.get("target_start_id")) is not None:
        write_json(path, {**options, "target_start_id": new[start]})


def _half(tokenizer: Tokenizer | TokenizerPair, role: Role) -> Tokenizer:
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    return tokenizer.source if role == "encoder" else tokenizer.target


def _smaller_config(config: PretrainedConfig, new: Mapping[Role, Mapping[int, int]]) -> PretrainedConfig:
    """Return the config with the new sizes of vocabularies and the new ids."""
    plain = config.to_dict()
    if not isinstance(config, EncoderDecoderConfig):
        return _with_words(config, new["decoder"], "encoder", "decoder")
    parts: dict[Role, PretrainedConfig] = {"encoder": config.encoder, "decoder": config.decoder}
    halves = {role: _with_words(half, new[role], role).to_dict() for role, half in parts.items()}
    plain = {name: value for name, value in plain.items() if name not in halves}
    return EncoderDecoderConfig.from_dict({**with_new_ids(plain, new["decoder"]), **halves})


def _with_words(config: PretrainedConfig, new: Mapping[int, int], *roles: Role) -> PretrainedConfig:
    """Return a config with new ids, and as many words as there are ids in these roles."""
    kind = family(config.model_type)
    changed = type(config).from_dict({**with_new_ids(config.to_dict(), new), "vocab_size": len(new)})
    for role in roles:
        sizes = dict.fromkeys(kind.vocab_size.values(), len(new))
        changed = kind.with_half(changed, role, **sizes)
    return changed


def _require_same_positions(before: PretrainedConfig, after: PretrainedConfig) -> None:
    """Check that positions do not depend on an id that has changed."""
    if isinstance(before, EncoderDecoderConfig):
        old, now = pair_spec(before), pair_spec(after)
        pairs = [(old.encoder.embedding, now.encoder.embedding), (old.decoder.embedding, now.decoder.embedding)]
    else:
        pairs = [(_single(before).embedding, _single(after).embedding)]
    for old_embedding, embedding in pairs:
        assert old_embedding.position_rows == embedding.position_rows
        assert old_embedding.first_row == embedding.first_row


def _copy_all(folder: Path, staging: Staging) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            staging.path(path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


def _matches(checkpoint: Checkpoint, config: PretrainedConfig) -> Iterator[tuple[str, Match | None]]:
    """Yield the tensors that stay, each with its canonical names."""
    table, _ = names_of_all(config, set(checkpoint))
    ignored = set(table.canonical(checkpoint).ignored)
    for name in checkpoint:
        if name not in ignored:
            yield name, table.match(name)


@dataclass(frozen=True, slots=True)
class _Gathered:
    """A tensor of the checkpoint, with the rows of kept tokens if it has one row per token."""

    checkpoint: Checkpoint
    match: tuple[str, Match | None]
    sides: Mapping[Role, Side]

    @property
    def _side(self) -> Side | None:
        """The vocabulary whose tokens have a row each; None if they have not."""
        _, match = self.match
        if match is None or not match.canonical[0].endswith(_VOCAB):
            return None
        return self.sides["encoder" if match.canonical[0].startswith("encoder.") else "decoder"]

    @property
    def size(self) -> int:
        """Number of numbers."""
        shape = self.checkpoint[self.match[0]].shape
        side = self._side
        return prod(shape) if side is None else prod(shape) // side.rows * len(side.kept)

    def tensor(self) -> Tensor:
        """Return the new tensor."""
        name, match = self.match
        array, dtype = self.checkpoint.array(name), self.checkpoint[name].dtype
        if (side := self._side) is None or match is None:
            return name, array, dtype
        parts = split(match.rule.layout, array, len(match.canonical))
        return name, Undo(name, match.canonical, match.rule)(*(part[side.kept] for part in parts)), dtype
