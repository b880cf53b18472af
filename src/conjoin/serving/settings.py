"""Settings of a server: the words of the command line, which are those of its TOML file."""

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from conjoin.errors import ConfigError, FileError, listing, near
from conjoin.serving.limits import Limits

DEFAULT_PORT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of `conjoin serve`.

    Args:
        models: Folders or hub ids, each with the name that clients use: "PATH=NAME", or "PATH", whose last part is the
            name.
        dtype: Of the parameters; that of the checkpoint if None.
        int8: Keep weights in 8 bits.
        threads: Of the engine; PyTorch's own number if None.
        max_rows: Hypotheses that run together; measured at the start if None.
        max_cache_bytes: Of the keys and values of running requests; a quarter of free memory if None.
        step_ms: Milliseconds that a step may take when rows are measured.
        max_queue: Sources that wait or run, of all clients.
        max_queue_characters: Of these sources together.
        max_body: Bytes of a request's body.
        timeout: Seconds from arrival to the end of a request.
        client_timeout: Seconds that a client may take to send a body, or leave what it is sent unread.
        grace: Seconds that running requests get when the server stops.
        api_key_file: File with a key per line; requests must carry one of them.
        no_auth: Allow a public address without keys.
        cors: Origins whose pages may call the server; "*" for all.
        root_path: Path under which a proxy serves this server.
        translate: Language pairs for LibreTranslate's form: "en:de=NAME", or "en:de" for the first model.
        ttl: Seconds after which an idle model is unloaded, to be loaded by the next request; 0 for never.
        chat: What is done with messages that the model cannot read: "last" leaves them out, "strict" refuses them.
        page: Serve the page at /.
        log: Form of the log on stderr.
    """

    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    dtype: str | None = None
    int8: bool = False
    device: str | None = None
    threads: int | None = None
    max_rows: int | None = None
    max_cache_bytes: int | None = None
    step_ms: float = 250.0
    max_queue: int = 256
    max_queue_characters: int = 4_000_000
    max_inputs: int = 128
    max_beams: int = 8
    max_results: int = 8
    max_new_tokens: int = 1024
    max_source_tokens: int | None = None
    max_body: int = 2_000_000
    timeout: float = 60.0
    client_timeout: float = 30.0
    grace: float = 30.0
    api_key_file: str | None = None
    no_auth: bool = False
    cors: tuple[str, ...] = ()
    root_path: str = ""
    translate: tuple[str, ...] = ()
    ttl: float = 0.0
    chat: Literal["last", "strict"] = "last"
    page: bool = True
    log: Literal["text", "json"] = "text"
    api_keys: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, *sources: Mapping[str, Any]) -> Self:
        """Return settings from several mappings; later ones win.

        Raises:
            ConfigError: names or values are not known; it lists all of them.
        """
        values: dict[str, Any] = {}
        for source in sources:
            values |= {name.replace("-", "_"): value for name, value in source.items() if value is not None}
        known = {each.name: each for each in fields(cls) if each.name != "api_keys"}
        problems = [_problem(name, value, known) for name, value in values.items()]
        if wrong := [problem for problem in problems if problem]:
            raise ConfigError(f"The server's settings cannot be used:\n{listing(wrong)}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}  # pyright: ignore
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        problems: list[str] = []
        if not self.models:
            problems.append("models is empty: expected a folder or hub id at least.")
        names = [name for _, name in self.named_models]
        problems += [f"two models are called {name!r}." for name in {*names} if names.count(name) > 1]
        positive = ("max_rows", "max_cache_bytes", "max_queue", "max_queue_characters", "max_inputs", "max_beams")
        positive += ("max_results", "max_new_tokens", "max_source_tokens", "max_body", "timeout", "threads", "step_ms")
        positive += ("client_timeout",)
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                problems.append(f"{name} = {value}; expected a number above 0.")
        if not 0 <= self.port <= 65535:
            problems.append(f"port = {self.port}; expected 0 (any free one) to 65535.")
        if self.root_path and not self.root_path.startswith("/"):
            problems.append(f"root_path = {self.root_path!r}; expected a path such as /models.")
        if problems:
            raise ConfigError(f"The server's settings cannot be used:\n{listing(problems)}")
        self.pairs  # noqa: B018  # raises what is wrong with --translate
        if not self.is_private and not (self.keys or self.no_auth):
            raise ConfigError(
                f"host = {self.host} is reachable from other machines, and no key is asked for.",
                hint="--api-key-file FILE with a key per line, or --no-auth if that is meant.",
            )

    @property
    def is_private(self) -> bool:
        """True if only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def named_models(self) -> list[tuple[str, str]]:
        """Folder or hub id, and name, of every model."""
        found: list[tuple[str, str]] = []
        for each in self.models:
            place, equals, name = each.rpartition("=")
            place = place if equals else each
            found.append((place, name if equals else Path(place.rstrip("/")).name))
        return found

    @property
    def pairs(self) -> dict[tuple[str, str], str]:
        """Source and target language -> name of the model.

        Raises:
            ConfigError: an entry is no pair, or its model is not served.
        """
        names = [name for _, name in self.named_models]
        pairs: dict[tuple[str, str], str] = {}
        for each in self.translate:
            codes, _, name = each.partition("=")
            source, colon, target = codes.partition(":")
            if not (source and colon and target):
                raise ConfigError(f"translate = {each!r}; expected SOURCE:TARGET or SOURCE:TARGET=NAME, as en:de.")
            if name and name not in names:
                raise ConfigError(f"translate = {each!r}: no model is called {name!r}; expected one of {names}.")
            pairs[(source, target)] = name or names[0]
        return pairs

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the file, without empty lines and comments.

        Raises:
            FileError: the file cannot be read or holds no key.
        """
        if self.api_keys or self.api_key_file is None:
            return self.api_keys
        try:
            lines = Path(self.api_key_file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{self.api_key_file}: cannot be read: {error}.") from None
        keys = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
        if not keys:
            raise FileError(f"{self.api_key_file} holds no key; expected one per line.")
        return keys

    @property
    def limits(self) -> Limits:
        """Bounds of one request."""
        return Limits(
            inputs=self.max_inputs,
            beams=self.max_beams,
            results=self.max_results,
            new_tokens=self.max_new_tokens,
            source_tokens=self.max_source_tokens,
            timeout_s=self.timeout,
        )

    def toml(self) -> str:
        """Return the settings as a TOML file; what is not set stands in a comment."""
        lines: list[str] = []
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "api_keys":
                continue
            lines.append(f"# {each.name} =" if value is None else f"{each.name} = {_toml(value)}")
        return "\n".join(lines)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the settings in a TOML file.

    Raises:
        FileError: it cannot be read.
        ConfigError: it is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}.") from None


_KINDS: dict[str, tuple[type, ...]] = {
    "models": (list, tuple),
    "cors": (list, tuple),
    "translate": (list, tuple),
    "int8": (bool,),
    "no_auth": (bool,),
    "page": (bool,),
    **{name: (str,) for name in ("host", "dtype", "device", "api_key_file", "root_path", "chat", "log")},
    **{name: (int, float) for name in ("timeout", "client_timeout", "grace", "ttl", "step_ms")},
}
_CHOICES = {"chat": ("last", "strict"), "log": ("text", "json"), "dtype": ("float32", "bfloat16", "float16")}


def _problem(name: str, value: Any, known: Mapping[str, Any]) -> str | None:
    if name not in known:
        close = near(name, known)
        return f"{name} is not a setting." + (f" Did you mean {close}?" if close else "")
    kinds = _KINDS.get(name, (int,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        return f"{name} = {value!r}; expected {' or '.join(kind.__name__ for kind in kinds)}."
    if isinstance(value, list | tuple) and not all(isinstance(each, str) for each in value):  # pyright: ignore
        return f"{name} = {value!r}; expected a list of texts."
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"{name} = {value!r}; expected {' or '.join(_CHOICES[name])}."
    return None


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case tuple():
            return "[" + ", ".join(_toml(each) for each in value) + "]"  # pyright: ignore[reportUnknownVariableType]
        case _:
            return str(value)
