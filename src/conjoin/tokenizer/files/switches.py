"""Settings of a pipeline: read from the pipeline of a tokenizer.json, and written to it.

A class or tokenizer_config.json cannot change tokenizer.json; their settings are compared with what it does.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as Backend

from conjoin.tokenizer.parts import Step, change_steps, find_step, part_of, put_part, steps
from conjoin.tokenizer.pipeline import Pipeline

_T5 = ["WhitespaceSplit", "Metaspace"]

SPACES = ("\u2581", "\u0120")  # SentencePiece's and the byte-level alphabet's visible space


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One setting of a pipeline.

    Attributes:
        read: returns the value that describes the pipeline; None if no step of it shows one.
        write: makes the pipeline do as the value says, as far as it has a step for that.
    """

    read: Callable[[Backend], Any]
    write: Callable[[Backend, Any], None]


def _normalized(backend: Backend, text: str) -> str:
    return text if backend.normalizer is None else backend.normalizer.normalize_str(text)


def _pieces(backend: Backend, text: str) -> list[str]:
    """Return a text as the model receives it."""
    normal = _normalized(backend, text)
    if backend.pre_tokenizer is None:
        return [normal]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]


def _lowers(backend: Backend) -> bool:
    return "a" in _normalized(backend, "A")


def _strips_accents(backend: Backend) -> bool:
    normal = unicodedata.normalize("NFC", _normalized(backend, "\u00e9"))
    return "e" in normal and "\u00e9" not in normal


def _parts_chinese(backend: Backend) -> bool:
    return sum(any("\u4e00" <= letter <= "\u9fff" for letter in piece) for piece in _pieces(backend, "中文")) > 1


def _parts_punctuation(backend: Backend) -> bool:
    return len(_pieces(backend, "a.b")) > 1


def _prefixes_space(backend: Backend) -> bool:
    return "".join(_pieces(backend, "a")).startswith(SPACES)


def _scheme(backend: Backend) -> str | None:
    """Return the prepend_scheme: which parts of a text get SentencePiece's space in front."""
    if find_step(backend, "normalizer", "Prepend"):
        return "always"
    step = find_step(backend, "pre_tokenizer", "Metaspace")
    return None if step is None else step.get("prepend_scheme", "always")


def _legacy(backend: Backend) -> bool | None:
    """Return whether text after a special token gets a space too; None if no text gets one."""
    return {"always": True, "first": False}.get(_scheme(backend) or "never")


def _trims(backend: Backend) -> bool | None:
    step = find_step(backend, "post_processor", "ByteLevel", "RobertaProcessing")
    return None if step is None else step["trim_offsets"]


def _setter(part: str, kind: str, key: str, *, negated: bool = False) -> Callable[[Backend, Any], None]:
    """Return a function that writes a value into every step of one type."""

    def write(backend: Backend, value: Any) -> None:
        def change(step: Step) -> None:
            if step["type"] == kind:
                step[key] = not value if negated else value

        change_steps(backend, part, change)

    return write


def _put_trim(backend: Backend, value: Any) -> None:
    for kind in ("ByteLevel", "RobertaProcessing"):
        _setter("post_processor", kind, "trim_offsets")(backend, bool(value))


def _put_scheme(backend: Backend, scheme: Any) -> None:
    if scheme == "first" and [step["type"] for step in steps(part_of(backend, "pre_tokenizer"))] == _T5:
        _spaces_for_words(backend)
    if scheme == "first" and find_step(backend, "pre_tokenizer", "WhitespaceSplit"):
        return  # after WhitespaceSplit, "first" would lose every other space
    for part in ("pre_tokenizer", "decoder"):
        _setter(part, "Metaspace", "prepend_scheme")(backend, scheme)


def _spaces_for_words(backend: Backend) -> None:
    """Replace WhitespaceSplit by a normalizer that leaves single spaces, at which Metaspace splits words."""
    normalizer = part_of(backend, "normalizer")
    single = [_replace(r"\s+", " "), _replace(" $", "")]
    put_part(backend, "normalizer", {"type": "Sequence", "normalizers": [*steps(normalizer), *single]})
    put_part(backend, "pre_tokenizer", [*steps(part_of(backend, "pre_tokenizer"))][1])


def _replace(pattern: str, content: str) -> Step:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _put_legacy(backend: Backend, value: Any) -> None:
    if _scheme(backend) != "never":
        _put_scheme(backend, "always" if value else "first")


def _put_prefix_space(backend: Backend, value: Any) -> None:
    normalizer = part_of(backend, "normalizer")
    if not value and normalizer is not None and find_step(backend, "normalizer", "Prepend"):  # Llama's older form
        rest = [step for step in steps(normalizer) if step["type"] != "Prepend"]
        put_part(backend, "normalizer", {"type": "Sequence", "normalizers": rest})
        _put_strip(backend, wanted=False)
    _setter("pre_tokenizer", "ByteLevel", "add_prefix_space")(backend, bool(value))
    _setter("post_processor", "RobertaProcessing", "add_prefix_space")(backend, bool(value))
    if find_step(backend, "pre_tokenizer", "Metaspace"):
        split = find_step(backend, "pre_tokenizer", "WhitespaceSplit")
        _put_scheme(backend, "never" if not value else "always" if split else "first")
        _put_strip(backend, wanted=bool(value))


def _put_strip(backend: Backend, *, wanted: bool) -> None:
    """Add or remove the step of Llama's decoder that strips the first space."""
    decoder = part_of(backend, "decoder")
    if decoder is None or decoder.get("type") != "Sequence" or find_step(backend, "decoder", "Metaspace"):
        return
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    rest = [step for step in decoder["decoders"] if step != strip]
    put_part(backend, "decoder", decoder | {"decoders": [*rest, strip] if wanted else rest})


SWITCHES = {
    "do_lower_case": Switch(read=_lowers, write=_setter("normalizer", "BertNormalizer", "lowercase")),
    "strip_accents": Switch(read=_strips_accents, write=_setter("normalizer", "BertNormalizer", "strip_accents")),
    "keep_accents": Switch(
        read=lambda backend: not _strips_accents(backend),
        write=_setter("normalizer", "BertNormalizer", "strip_accents", negated=True),
    ),
    "tokenize_chinese_chars": Switch(
        read=_parts_chinese, write=_setter("normalizer", "BertNormalizer", "handle_chinese_chars")
    ),
    "split_by_punct": Switch(read=_parts_punctuation, write=lambda backend, value: None),
    "add_prefix_space": Switch(read=_prefixes_space, write=_put_prefix_space),
    "prepend_scheme": Switch(read=_scheme, write=_put_scheme),
    "legacy": Switch(read=_legacy, write=_put_legacy),
    "trim_offsets": Switch(read=_trims, write=_put_trim),
}
"""Settings by their key in tokenizer_config.json."""
_AFTER_TOKENS = Switch(
    read=lambda backend: None if _scheme(backend) is None else _scheme(backend) == "always",
    write=lambda backend, value: _put_scheme(backend, "always" if value else "first"),
)


def switches_of(cls: type[Pipeline]) -> Mapping[str, Switch]:
    """Return the settings of a class: without DeBERTa's add_prefix_space a text's first word still gets a space."""
    return SWITCHES if cls.without_prefix_space == "never" else {**SWITCHES, "add_prefix_space": _AFTER_TOKENS}
