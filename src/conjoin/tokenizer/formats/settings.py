"""Settings from tokenizer_config.json and its older companions, merged in transformers' order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from tokenizers import AddedToken

from conjoin.errors import TokenizerError
from conjoin.tokenizer.formats.find import (
    ADDED_TOKENS,
    CHAT_TEMPLATE,
    CHAT_TEMPLATES,
    OWN_CLASS,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    Files,
)
from conjoin.tokenizer.formats.read import read_json
from conjoin.tokenizer.formats.refuse import check_ids

Token = str | AddedToken

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that every tokenizer has a name for."""

_BOOKKEEPING = (
    "tokenizer_class",
    OWN_CLASS,
    "init_inputs",
    "name_or_path",
    "is_local",
    "local_files_only",
    "added_tokens_decoder",
)


@dataclass(slots=True, kw_only=True)
class Settings:
    """One tokenizer's settings.

    Attributes:
        options: every other key, known to conjoin or not; saved unchanged.
        named: special tokens by name, including a model's own names such as `image_token`.
        extra: special tokens without a name; None when no file says anything about them.
        family_extra: unnamed special tokens that a family merges with its own (mBART's language codes).
        added: tokens to add to the vocabulary, by id.
        added_has_rules: True if the file of `added` also says how each token matches (lstrip, rstrip, single_word).
        origin: path that the tokenizer was read from, for errors.
        asked: keys that the caller passed; the fields above hold their values.
        asked_texts: texts of the special tokens that the caller passed.
        is_raw: True if the class built the pipeline, so that only these settings say which tokens are special.
    """

    options: dict[str, Any] = field(default_factory=dict[str, Any])
    named: dict[str, Token | None] = field(default_factory=dict[str, Token | None])
    extra: list[Token] | None = None
    family_extra: list[Token] | None = None
    added: dict[int, AddedToken] = field(default_factory=dict[int, AddedToken])
    added_has_rules: bool = False
    origin: str = "this tokenizer"
    asked: frozenset[str] = frozenset()
    asked_texts: frozenset[str] = frozenset()
    is_raw: bool = False


def read_settings(files: Files, overrides: Mapping[str, Any]) -> Settings:
    """Read a folder's settings; `overrides` win over every file.

    Raises:
        TokenizerError: a file is not JSON, or a special token is neither text nor an added token.
    """
    path = files.get(TOKENIZER_CONFIG)
    config = read_json(path) if path else {}
    config |= _chat_templates(files)
    config |= overrides
    if config.get("additional_special_tokens") and not config.get("extra_special_tokens"):
        config["extra_special_tokens"] = config.pop("additional_special_tokens")
    has_rules = "added_tokens_decoder" in config
    if has_rules:
        listed: dict[str, Any] = config["added_tokens_decoder"]
        added = {_index(index, files): _as_added(value, "added_tokens_decoder") for index, value in listed.items()}
    else:
        _merge_special_tokens_map(files, config, overrides)
        added = _added_tokens(files, config)
    for key in _BOOKKEEPING:
        config.pop(key, None)
    settings = _split_config(config, added)
    settings.origin = str(files.get(TOKENIZER_JSON) or files.folder)
    settings.added_has_rules = has_rules
    settings.asked = frozenset(key for key, value in overrides.items() if value is not None)
    settings.asked_texts = frozenset(_texts_in(overrides))
    return settings


def as_token(value: Any, name: str) -> Token:
    """Turn the JSON form of a special token into text or an AddedToken.

    Raises:
        TokenizerError: `value` is neither.
    """
    if isinstance(value, str | AddedToken):
        return value
    if isinstance(value, dict) and "content" in value:
        fields = {key: item for key, item in cast(dict[str, Any], value).items() if key not in ("__type", "id")}
        options: dict[str, Any] = {"special": True} | fields
        return AddedToken(**options)
    raise TokenizerError(f"{name} = {value!r}, expected a string or an AddedToken.")


def _chat_templates(files: Files) -> dict[str, Any]:
    templates: dict[str, str] = {}
    default = files.get(CHAT_TEMPLATE)
    if default:
        templates["default"] = default.read_text(encoding="utf-8")
    if files.only is None:
        for path in sorted((files.folder / CHAT_TEMPLATES).glob("*.jinja")):
            templates[path.stem] = path.read_text(encoding="utf-8")
    if not templates:
        return {}
    return {"chat_template": templates["default"] if list(templates) == ["default"] else templates}


def _added_tokens(files: Files, config: dict[str, Any]) -> dict[int, AddedToken]:
    """Read the tokens to add of older checkpoints, whose tokenizer_config.json does not list them."""
    path = files.get(ADDED_TOKENS)
    special = _texts_in(config)
    return {
        _index(index, files): AddedToken(text, normalized=text not in special, special=text in special)
        for text, index in (read_json(path) if path else {}).items()
    }


def _merge_special_tokens_map(files: Files, config: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    path = files.get(SPECIAL_TOKENS_MAP)
    listed: dict[str, Any] = read_json(path) if path else {}
    for key, value in listed.items():
        if overrides.get(key):
            continue
        if key == "extra_special_tokens" and isinstance(value, list):
            existing: list[Any] = list(config.get(key) or [])
            known = {repr(token) for token in existing}
            config[key] = existing + [token for token in cast(list[Any], value) if repr(token) not in known]
        else:
            config[key] = value


def _texts_in(config: Mapping[str, Any]) -> set[str]:
    """Return the texts of all special tokens in a config, with or without a name."""
    values = [(key, config[key]) for key in NAMED if config.get(key)]
    for key in ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"):
        listed = config.get(key)
        if isinstance(listed, dict):
            values += [(key, token) for token in cast(dict[str, Any], listed).values()]
        elif isinstance(listed, list | tuple):
            values += [(key, token) for token in cast(list[Any], listed)]
    return {text_of(as_token(value, key)) for key, value in values}


def _split_config(config: dict[str, Any], added: dict[int, AddedToken]) -> Settings:
    """Split a config into special tokens and options."""
    by_name = dict(config.pop("model_specific_special_tokens", None) or {})
    extra = config.pop("extra_special_tokens", None)
    if isinstance(extra, dict):
        by_name |= cast(dict[str, Any], extra)
        extra = None
    named: dict[str, Token | None] = {}
    for key in [key for key in config if key.endswith("_token")]:
        value = config[key]
        if key in NAMED or isinstance(value, str | AddedToken | dict):
            named[key] = None if config.pop(key) is None else as_token(value, key)
    named |= {key: as_token(value, key) for key, value in by_name.items()}
    family_extra = _tokens(config.pop("additional_special_tokens", None), "additional_special_tokens")
    listed = _tokens(extra, "extra_special_tokens")
    if listed is not None:
        texts = {text_of(token) for token in listed}
        listed += [token for token in family_extra or [] if text_of(token) not in texts]
    return Settings(options=config, named=named, extra=listed, family_extra=family_extra, added=added)


def _tokens(values: Any, name: str) -> list[Token] | None:
    if values is None:
        return None
    if not isinstance(values, list | tuple):
        raise TokenizerError(f"{name} = {values!r}, expected a list of tokens.")
    return [as_token(value, name) for value in cast(list[Any], values)]


def _index(value: Any, files: Files) -> int:
    """Return the id of an added token as an integer; some files hold it as text."""
    index = int(value)
    check_ids([index], files.folder)
    return index


def _as_added(value: Any, name: str) -> AddedToken:
    is_object = isinstance(value, dict)
    token = as_token({"special": False} | cast(dict[str, Any], value) if is_object else value, name)
    if isinstance(token, str):
        raise TokenizerError(f"{name} holds the bare string {token!r}, expected an object with `content`.")
    return token


def text_of(token: Token) -> str:
    """Return the text of a special token in either form."""
    return token if isinstance(token, str) else token.content
