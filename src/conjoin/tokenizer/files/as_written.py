"""Load a tokenizer.json as it is written: its model, its pipeline, its special-token frame and its added tokens.

The class and the other files add what a tokenizer.json cannot hold. Where they contradict it, tokenizer.json wins, and
a warning names both values. What the caller asks for is applied, or an error is raised.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError, listing, warn
from conjoin.tokenizer.files.frame import ENDS, ends_of, honour_ends, rename_in_frame
from conjoin.tokenizer.files.sample import Sample, check_same, is_random
from conjoin.tokenizer.files.switches import Switch, switches_of
from conjoin.tokenizer.formats.find import TOKENIZER_JSON, Files
from conjoin.tokenizer.formats.read import model_kind, read_backend, read_json
from conjoin.tokenizer.formats.refuse import check_document
from conjoin.tokenizer.formats.settings import NAMED, Settings, read_settings, text_of
from conjoin.tokenizer.pipeline import Pipeline

T = TypeVar("T", bound=Pipeline)


def load_as_written(cls: type[T], path: Path, files: Files, overrides: Mapping[str, Any]) -> T:
    """Load `cls` over a tokenizer.json.

    Raises:
        TokenizerError: the file is unreadable or holds another kind of model, or a setting cannot be applied.
    """
    document = read_json(path)
    check_document(document, path)
    kind = model_kind(document, path)
    if cls.kind not in (None, kind):
        raise TokenizerError(
            f"{path}: holds a {kind} model, expected {cls.kind}, so {cls.__name__} cannot read it.",
            hint=f"AutoTokenizer.from_pretrained({str(files.folder)!r})",
        )
    settings, switches = read_settings(files, overrides), switches_of(cls)
    backend = read_backend(path)
    _check_ids(path, document, backend)
    sample = None if is_random(backend) else Sample.of(backend, str(path))
    changed = _apply_switches(switches, path, backend, settings)
    problems = _differences(switches, document, backend, settings)
    _take_roles(cls, document, backend, settings)
    tokenizer = cls(backend, settings)
    renamed = _rename_roles(tokenizer, files, overrides)
    honour_ends(tokenizer)
    problems += _frame_differences(tokenizer)
    _record_switches(tokenizer)
    if problems:
        warn(f"{path} is used as it is written, where tokenizer_config.json says something else:\n{listing(problems)}")
    if sample is not None and not changed:
        frames = not renamed and not tokenizer.frames_itself and not settings.asked & set(ENDS)
        check_same(sample, Sample.of(backend, str(path)), str(path), frames=frames)
    return tokenizer


def _check_ids(path: Path, document: Mapping[str, Any], backend: Backend) -> None:
    """Check that added tokens have the ids in the file: the Rust library numbers them itself as it reads them.

    Raises:
        TokenizerError: ids differ.
    """
    listed = cast(list[dict[str, Any]], document.get("added_tokens") or [])
    wrong = [
        f"{token['content']!r} has the id {token['id']}, but gets {backend.token_to_id(token['content'])}"
        for token in listed
        if backend.token_to_id(token["content"]) != token["id"]
    ]
    if wrong:
        raise TokenizerError(
            f"{path}: added_tokens leave a hole in the ids or take those of other tokens:\n{listing(wrong, limit=5)}",
            hint="ids of added tokens follow the vocabulary without a gap; add the tokens that are missing.",
        )


def _apply_switches(switches: Mapping[str, Switch], path: Path, backend: Backend, settings: Settings) -> bool:
    """Apply the caller's settings to the pipeline; return True if that changed it.

    Raises:
        TokenizerError: the pipeline has no step for a setting.
    """
    changed = _change_unknown(path, backend, settings)
    for name, switch in switches.items():
        value = settings.options[name] if name in settings.asked else None
        if value is None or switch.read(backend) == value:
            continue
        try:
            switch.write(backend, value)
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerError(f"{name} = {value!r} was asked for: {error}.") from error
        if switch.read(backend) != value:
            raise TokenizerError(
                f"{name} = {value!r} was asked for, but {path} does otherwise and has no step that could be switched.",
                hint=f"leave {name} out, change the file, or load the raw vocabulary without {TOKENIZER_JSON}.",
            )
        changed = True
    return changed


def _change_unknown(path: Path, backend: Backend, settings: Settings) -> bool:
    """Set the model's unk token to the one that the caller passed; return True if that changed it."""
    token = settings.named.get("unk_token") if "unk_token" in settings.asked else None
    model: Any = backend.model
    current = getattr(model, "unk_token", None)
    if token is None or current is None or text_of(token) == current:
        return False
    if model.token_to_id(text_of(token)) is None:
        raise TokenizerError(
            f"unk_token = {text_of(token)!r} was asked for, but the vocabulary of {path} has no such token.",
            hint=f"its own is {current!r}.",
        )
    model.unk_token = text_of(token)
    return True


def _differences(
    switches: Mapping[str, Switch], document: Mapping[str, Any], backend: Backend, settings: Settings
) -> list[str]:
    """Return the contradictions between the settings files and the pipeline and tokens of tokenizer.json."""
    differences: list[str] = []
    for name, switch in switches.items():
        stated = settings.options.get(name)
        actual = switch.read(backend)
        if stated is not None and actual is not None and stated != actual:
            differences.append(_difference(name, stated, actual))
            settings.options[name] = actual
    unknown = _unknown_of(document)
    named = settings.named.get("unk_token")
    if unknown is not None and named is not None and text_of(named) != unknown and "unk_token" not in settings.asked:
        differences.append(_difference("unk_token", text_of(named), unknown))
    return differences + _different_tokens(backend, settings)


def _different_tokens(backend: Backend, settings: Settings) -> list[str]:
    own = backend.get_added_tokens_decoder()
    differences: list[str] = []
    for index, token in settings.added.items():
        actual = backend.token_to_id(token.content)
        if actual is None:
            continue  # a new token, whose id is checked when it is added
        if actual != index:
            differences.append(_difference(f"the id of {token.content!r}", index, actual))
        elif actual not in own:
            if not token.special:
                differences.append(f"{token.content!r} is an added token, in {TOKENIZER_JSON} an ordinary one")
        elif settings.added_has_rules and (rules := _rules(token)) != _rules(own[actual]):
            differences.append(_difference(f"the rules of {token.content!r}", rules, _rules(own[actual])))
    return differences


def _rules(token: AddedToken) -> str:
    names = [name for name in ("lstrip", "rstrip", "single_word") if getattr(token, name)]
    return "+".join(names) or "none"


def _frame_differences(tokenizer: Pipeline) -> list[str]:
    """Return the contradictions about frame and sentinels, which are known once every token has its id."""
    settings = tokenizer.settings
    facts: dict[str, Any] = {**ends_of(tokenizer), **tokenizer.counted()}
    differences: list[str] = []
    for name, actual in facts.items():
        stated = settings.options.get(name)
        if stated is not None and stated != actual and name not in settings.asked:
            differences.append(_difference(name, stated, actual))
        settings.options[name] = actual
    return differences


def _difference(name: str, stated: Any, actual: Any) -> str:
    return f"{name} = {stated!r} there, {actual!r} in {TOKENIZER_JSON}"


def _unknown_of(document: Mapping[str, Any]) -> str | None:
    """Return the token that the model uses for unknown text; None if it has none."""
    model: Mapping[str, Any] = document["model"]
    index, vocab = model.get("unk_id"), model["vocab"]
    if index is not None and isinstance(vocab, list):
        return str(cast(list[Any], vocab)[index][0])
    return model.get("unk_token") or None


def _take_roles(cls: type[Pipeline], document: Mapping[str, Any], backend: Backend, settings: Settings) -> None:
    """Use the class's special tokens that no file names, if the vocabulary has them."""
    for name, token in cls.defaults.items():
        if name in settings.named:
            continue
        own = _unknown_of(document) if name == "unk_token" else None
        if own is not None or token is None or backend.token_to_id(text_of(token)) is not None:
            settings.named[name] = token if own is None else own
    listed = {text_of(token) for token in settings.family_extra or []}
    extra = cls.extra_of_file(backend, settings)
    if settings.extra is None and extra is not None:
        settings.extra = [
            token for token in extra if text_of(token) in listed or backend.token_to_id(text_of(token)) is not None
        ]


def _rename_roles(tokenizer: Pipeline, files: Files, overrides: Mapping[str, Any]) -> bool:
    """Replace tokens of the frame by those that the caller passed for their roles; return True if there were any."""
    named = [name for name in NAMED if name in tokenizer.settings.asked and name != "unk_token"]
    if not named or tokenizer.frames_itself:
        return False
    before = read_settings(files, {key: value for key, value in overrides.items() if key not in named}).named
    in_use = {*tokenizer.special_tokens_map.values()}
    for name in named:
        old, new = before.get(name, tokenizer.defaults.get(name)), getattr(tokenizer, name)
        if old is not None and text_of(old) not in in_use:
            rename_in_frame(tokenizer, text_of(old), new)
    return True


def _record_switches(tokenizer: Pipeline) -> None:
    """Set the options of the class to what the pipeline does, so that saved files describe it correctly."""
    options, switches = tokenizer.settings.options, switches_of(type(tokenizer))
    for name, usual in tokenizer.switches.items():
        actual = switches[name].read(tokenizer.backend)
        expected = options.get("do_lower_case", True) if usual is None else usual
        if actual is not None and actual != options.get(name, expected):
            options[name] = actual
