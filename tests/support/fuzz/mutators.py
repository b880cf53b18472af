"""How files are damaged: bytes, lines, JSON. Seeded; knows nothing of conjoin."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
ODD_TEXTS = (
    "",
    " ",
    "\0",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\u202eabc",
    "\ufeff",
    "\u2028",
    "a" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "NaN",
    "null",
    "true",
    "-1",
    "1e999",
    "é\u0301",
    "👍🏽",
    "\ud800",
    "{}",
    "[UNK]",
    "<pad>",
    "%s%n",
    "${HOME}",
    "__import__('os')",
)


class Raw(str):
    """A piece of JSON to be written as it stands."""


ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    0.5,
    1.5,
    -0.0,
    1e-300,
    7,
    64,
    1000,
    2**31,
    2**63,
    -(2**63),
    10**6,
    10**9,
    10**10,
    10**18,
    Raw("1e999"),
    Raw("-1e999"),
    Raw("NaN"),
    Raw("Infinity"),
    Raw("9" * 5000),
    Raw("[" * 3000 + "]" * 3000),
    Raw("1" * 400 + ".5"),
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"a": 1},
    {"": None},
    [0] * 1000,
    ["a"] * 3,
)


def mangled(raw: bytes, draw: Random) -> bytes:
    """Bytes with one to three damages."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        raw = draw.choice(_BYTE_DAMAGES)(raw, draw)
    return raw


def _span(raw: bytes, draw: Random, most: int = 1 << 20) -> tuple[int, int]:
    start = draw.randint(0, len(raw))
    return start, min(len(raw), start + draw.randint(1, draw.choice((4, 64, most))))


def _flip(raw: bytes, draw: Random) -> bytes:
    if not raw:
        return raw
    at = draw.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]


def _set(raw: bytes, draw: Random) -> bytes:
    at = draw.randint(0, len(raw))
    return raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :]


def _number(raw: bytes, draw: Random) -> bytes:
    width, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    at = draw.randint(0, len(raw))
    value = draw.choice(INTERESTING) % (1 << 8 * width)
    return raw[:at] + value.to_bytes(width, order) + raw[at + width :]  # pyright: ignore[reportArgumentType]


def _cut(raw: bytes, draw: Random) -> bytes:
    return raw[: draw.randint(0, len(raw))]


def _drop(raw: bytes, draw: Random) -> bytes:
    start, end = _span(raw, draw)
    return raw[:start] + raw[end:]


def _double(raw: bytes, draw: Random) -> bytes:
    start, end = _span(raw, draw)
    return raw[:end] + raw[start:end] + raw[end:]


def _swap(raw: bytes, draw: Random) -> bytes:
    (a, b), (c, d) = sorted((_span(raw, draw, 64), _span(raw, draw, 64)))
    return raw if b > c else raw[:a] + raw[c:d] + raw[b:c] + raw[a:b] + raw[d:]


def _zeros(raw: bytes, draw: Random) -> bytes:
    start, end = _span(raw, draw, 256)
    return raw[:start] + bytes([draw.choice((0, 0xFF))]) * (end - start) + raw[end:]


def _insert(raw: bytes, draw: Random) -> bytes:
    at = draw.randint(0, len(raw))
    return raw[:at] + draw.randbytes(draw.choice((1, 4, 40))) + raw[at:]


def _append(raw: bytes, draw: Random) -> bytes:
    return raw + draw.randbytes(draw.choice((1, 8, 100)))


_BYTE_DAMAGES = (_flip, _flip, _set, _set, _number, _number, _cut, _drop, _double, _swap, _zeros, _insert, _append)


def garbled(raw: bytes, draw: Random, *, lines: Sequence[str] = ()) -> bytes:
    """Text with a line lost, doubled, exchanged, cut or replaced; or with damaged bytes.

    Args:
        lines: What may come in beside.
    """
    if draw.random() < 0.3:
        return mangled(raw, draw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        kept = raw.splitlines(keepends=True) or [b""]
        at, other = draw.randrange(len(kept)), draw.randrange(len(kept))
        match draw.randrange(7):
            case 0:
                del kept[at]
            case 1:
                kept.insert(other, kept[at])
            case 2:
                kept[at], kept[other] = kept[other], kept[at]
            case 3:
                kept[at] = kept[at][: draw.randint(0, len(kept[at]))]
            case 4:
                kept.insert(at, odd_text(draw).encode("utf-8", "surrogatepass") + b"\n")
            case 5:
                place = draw.randint(0, len(kept[at]))
                kept[at] = kept[at][:place] + odd_text(draw).encode("utf-8", "surrogatepass") + kept[at][place:]
            case _:
                kept[at] = (draw.choice(lines) if lines else draw.choice(ODD_TEXTS)).encode(
                    "utf-8", "surrogatepass"
                ) + b"\n"
        raw = b"".join(kept)
    return raw


def odd_text(draw: Random) -> str:
    """A text that nobody expects."""
    return draw.choice(ODD_TEXTS)


def odd_value(draw: Random) -> Any:
    """A value that nobody expects."""
    return odd_text(draw) if draw.random() < 0.25 else draw.choice(ODD_VALUES)


def spelled(value: Any) -> str:
    """JSON with `Raw` pieces as they stand."""
    match value:
        case Raw():
            return str(value)
        case dict():
            return "{" + ", ".join(f"{json.dumps(str(key))}: {spelled(each)}" for key, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(spelled, value)) + "]"
        case _:
            return json.dumps(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside one."""
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


def changed(value: Any, draw: Random, *, words: Sequence[str] = (), odd: Callable[[Random], Any] = odd_value) -> Any:
    """A JSON value with one to three places replaced, lost, renamed, exchanged or added.

    Args:
        words: Keys that mean something to whoever reads it.
    """
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        paths = places(value)
        if not paths or draw.random() < 0.02:
            value = odd(draw)
            continue
        # Few lists are long: those at the top are met as often as what lies deep in them.
        depth = draw.choice(sorted({len(path) for path in paths}))
        *way, key = draw.choice([path for path in paths if len(path) == depth])
        _change(_inner(value, way), key, draw, words, odd)
    return value


def _inner(value: Any, way: Sequence[Any]) -> Any:
    for key in way:
        value = value[key]
    return value


def _change(holder: Any, key: Any, draw: Random, words: Sequence[str], odd: Callable[[Random], Any]) -> None:
    match draw.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[odd_text(draw)] = holder.pop(key)
        case 2:
            other = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            holder[key], holder[other] = holder[other], holder[key]
        case 3 if isinstance(holder, dict) and words:
            holder[draw.choice(words)] = odd(draw)
        case 4 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * draw.choice((-1, 0, 2, 10, 1000)) + draw.choice((0, 1, -1))
        case 5 if isinstance(holder[key], str):
            holder[key] = draw.choice((holder[key] + odd_text(draw), holder[key][1:], holder[key] * 100))
        case _:
            holder[key] = odd(draw)


def change_json(path: Path, draw: Random, *, words: Sequence[str] = (), bytes_share: float = 0.15) -> None:
    """Damage a JSON file: its values, more rarely its bytes."""
    raw = path.read_bytes()
    if draw.random() < bytes_share:
        path.write_bytes(mangled(raw, draw))
        return
    text = spelled(changed(json.loads(raw), draw, words=words))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def change_bytes(path: Path, draw: Random) -> None:
    """Damage a file's bytes."""
    path.write_bytes(mangled(path.read_bytes(), draw))
