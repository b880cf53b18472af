"""Save a tokenizer object to files that conjoin and transformers read."""

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken

from conjoin.errors import FileError, TokenizerError, lone_surrogate
from conjoin.tokenizer.files.rebuild import class_for_transformers
from conjoin.tokenizer.formats.find import CHAT_TEMPLATE, CHAT_TEMPLATES, OWN_CLASS, TOKENIZER_CONFIG, TOKENIZER_JSON
from conjoin.tokenizer.pipeline import Pipeline

_OLDER = ("special_tokens_map.json", "added_tokens.json", "chat_template.json")
"""Files of transformers 4 that loading would read beside those that are written, and take for their equals."""
_IN_TOKENIZER_JSON = ("add_bos_token", "add_eos_token")  # the post-processor holds them


def save(tokenizer: Pipeline, folder: Path) -> tuple[str, ...]:
    """Write one tokenizer into `folder`; see `Tokenizer.save_pretrained`."""
    with tokenizer.lock:  # held while writing, so that two threads never mix two states in one folder
        if tokenizer.contents:
            return _save_raw(tokenizer, folder)
        document = tokenizer.backend.to_str(pretty=True)
        config = _config(tokenizer) | _class_of(tokenizer, json.loads(document))
        texts = _chat_files(config)
        texts[TOKENIZER_CONFIG] = to_json(config)
        texts[TOKENIZER_JSON] = document
        written = tuple(write_text(folder / name, text) for name, text in texts.items())
        _remove_older(folder, texts)
        return written


def _save_raw(tokenizer: Pipeline, folder: Path) -> tuple[str, ...]:
    """Write the family's raw files, with the added tokens in tokenizer_config.json."""
    config = _config(tokenizer) | {"tokenizer_class": tokenizer.saved_class}
    added = tokenizer.backend.get_added_tokens_decoder()
    config["added_tokens_decoder"] = {
        str(index): {key: value for key, value in _added_token(token).items() if key != "__type"}
        for index, token in sorted(added.items(), key=lambda item: item[0])
    }
    texts = _chat_files(config)
    texts[TOKENIZER_CONFIG] = to_json(config)
    written = [write_text(folder / name, text) for name, text in texts.items()]
    written += [write_bytes(folder / name, content) for name, content in tokenizer.contents.items()]
    (folder / TOKENIZER_JSON).unlink(missing_ok=True)  # of another tokenizer, which was saved here before
    _remove_older(folder, {*texts, *tokenizer.contents})
    return tuple(written)


def _remove_older(folder: Path, written: Iterable[str]) -> None:
    """Remove what an earlier save left that would change the tokenizer that is written now."""
    templates = [path.relative_to(folder).as_posix() for path in (folder / CHAT_TEMPLATES).glob("*.jinja")]
    for name in {*_OLDER, CHAT_TEMPLATE, *templates} - set(written):
        (folder / name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> str:
    """Write a text file atomically, and return its path; see `write_bytes`."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file atomically, and return its path.

    Raises:
        FileError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise FileError(f"{path}: cannot be written: {error}.") from error
    return str(path)


def to_json(value: dict[str, Any]) -> str:
    """Return the JSON text of a settings file, with sorted keys.

    Raises:
        TokenizerError: a setting is no JSON value.
    """
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=_added_token) + "\n"
        if lone_surrogate(text) is None:
            return text
        return json.dumps(value, indent=2, sort_keys=True, default=_added_token) + "\n"  # as it came: "\\ud800"
    except (TypeError, ValueError, RecursionError) as error:
        raise TokenizerError(f"a tokenizer setting cannot be saved: {error}.") from error


def _config(tokenizer: Pipeline) -> dict[str, Any]:
    config = {key: value for key, value in tokenizer.init_kwargs.items() if key not in _IN_TOKENIZER_JSON}
    config |= tokenizer.special_tokens_map
    config |= {
        name: None for name, usual in tokenizer.defaults.items() if usual is not None and _is_denied(tokenizer, name)
    }
    if tokenizer.extra_special_tokens:
        config["extra_special_tokens"] = tokenizer.extra_special_tokens
    config["padding_side"] = tokenizer.padding_side
    config["truncation_side"] = tokenizer.truncation_side
    config["model_max_length"] = tokenizer.model_max_length
    return config


def _is_denied(tokenizer: Pipeline, name: str) -> bool:
    """Return whether a file or the caller said that there is no such token: silence would mean the class's own."""
    return name in tokenizer.settings.named and tokenizer.settings.named[name] is None


def _class_of(tokenizer: Pipeline, document: dict[str, Any]) -> dict[str, Any]:
    """Return the class with which transformers reads the saved files, and ours if it is another."""
    named = class_for_transformers(tokenizer, document)
    if named == tokenizer.saved_class:
        return {"tokenizer_class": named}
    names = list(tokenizer.model_input_names)
    return {"tokenizer_class": named, OWN_CLASS: tokenizer.saved_class, "model_input_names": names}


def _chat_files(config: dict[str, Any]) -> dict[str, str]:
    """Move chat templates out of the config into files, where transformers keeps them."""
    template = config.pop("chat_template", None)
    named = chat_templates(template)
    unsafe = [name for name in named if Path(name).name != name or name.startswith(".") or "\0" in name]
    if unsafe:
        raise TokenizerError(f"chat_template has the name {unsafe[0]!r}, which is not a file name.")
    return {
        CHAT_TEMPLATE if name == "default" else f"{CHAT_TEMPLATES}/{name}.jinja": text for name, text in named.items()
    }


def chat_templates(value: Any) -> dict[str, str]:
    """Return chat templates by name; a config holds one text, or names with texts.

    Raises:
        TokenizerError: `value` is neither, or UTF-8 cannot hold it.
    """
    named: dict[Any, Any]
    match value:
        case dict():
            named = cast(dict[Any, Any], value)
        case [{}, *_]:  # older configs: [{"name": ..., "template": ...}]
            named = {item["name"]: item["template"] for item in cast(list[dict[str, Any]], value)}
        case _:
            named = {"default": value} if value else {}
    if not all(isinstance(text, str) and lone_surrogate(text) is None for item in named.items() for text in item):
        raise TokenizerError(
            f"chat_template = {str(cast(object, value))[:60]!r}, expected text, or names with texts, all of UTF-8."
        )
    return named


def _added_token(value: Any) -> Any:
    if not isinstance(value, AddedToken):
        raise TypeError(f"{value!r} ({type(value).__name__}) is not a JSON value")
    state = {
        key: getattr(value, key) for key in ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    }
    return {"__type": "AddedToken", **state}
