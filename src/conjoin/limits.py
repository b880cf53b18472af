"""The largest numbers that conjoin accepts from a file or a caller, each with its reason.

Every limit is far above what real models need and far below what brings a machine down: a typing mistake or a hostile
file becomes an error instead of an hour of waiting. This module imports the standard library only, like `errors`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a setting: a test of a value, a description for errors, and what a form needs to ask for a value.

    Args:
        kind: Of the input that a form shows; "other" for lists and the like, which are written as JSON.
        least, most: Bounds of a number, for its input only: a bound may be excluded, which `holds` knows.
        options: Values of a choice.
    """

    holds: Callable[[Any], bool]
    description: str
    kind: Literal["whole", "number", "switch", "choice", "other"] = "other"
    least: float | None = None
    most: float | None = None
    options: tuple[Any, ...] = ()


JSON_BYTES = 1 << 29
"""Bytes of one JSON file: 512 MiB. The largest tokenizer.json known has 35 MB; parsing takes ten times the memory."""

JSON_DEPTH = 100
"""Nesting depth of JSON. Real files stay below 12; copying and writing recurse per level."""

LAYERS = 4096
"""Layers of one stack. The deepest published transformer has 1,000 (DeepNet); each layer takes time to build."""

WIDTH = 1 << 20
"""hidden_size, intermediate_size, heads and head sizes. The widest published layer has 131,072 units."""

VOCAB = 1 << 24
"""Rows of an embedding table. The largest published vocabulary has 1,000,000 tokens (XLM-V)."""

POSITIONS = 1 << 28
"""Positions that a config may promise. The longest published context has 10 million tokens (Llama 4)."""

JSON_DIGITS = 4300
"""Digits of a whole number in JSON: Python's own limit, since parsing a number takes quadratic time."""

EXTRA_IDS = 1 << 14
"""Sentinel tokens `<extra_id_...>` of a T5 tokenizer. Published checkpoints have 100 to 300."""

ROW_TOKENS = 1 << 24
"""Tokens that one text is padded to. The longest published context has 10 million; each takes some 60 bytes."""

LINE_BYTES = 1 << 26
"""Bytes of one line of data: 64 MiB. A text of 10 million tokens, the longest published context, has some 40 MB."""

UNPACKED_FREE = 1 << 28
"""Bytes that any .gz file may unpack to: 256 MiB, which every machine has."""

UNPACKED_TIMES = 250
"""Largest unpacked size of a bigger .gz file, as a multiple of its size. Texts grow 3 to 50 times, bombs a thousand."""

DATA_PROBLEMS = 20
"""Problems in a data file after which reading stops: a longer list helps nobody."""

STEPS = 1 << 53
"""Steps, epochs and tokens of a run: up to here a float64 represents every whole number exactly."""

RECIPE_BYTES = 1 << 20
"""Bytes of a recipe. One with every setting has 3 kB; YAML is parsed at about 100 kB a second."""

RECIPE_DEPTH = 20
"""Nesting depth of a recipe, which needs one level; the YAML parser recurses per level."""

RECIPE_LETTERS = 10_000
"""Characters of one value in a recipe; YAML parses `1:1:1:...` as a number, in quadratic time."""

ROWS_PER_SOURCE = 1 << 14
"""Beams, or results, per source: 16,384. Papers use up to 1,000 beams, code benchmarks 200 results."""

DRAFT_TOKENS = 1 << 12
"""Tokens of one draft. Useful drafts have 2 to 40; choosing a draft's length takes time for each length up to this."""

RESULT_TOKENS = 1 << 20
"""Tokens of one result, prompt included. Memory for all of them is reserved before the first is generated."""

BATCH_TOKENS = 1 << 26
"""Tokens of all rows of a call together: each array of them takes 0.5 GB, and the cache far more."""
