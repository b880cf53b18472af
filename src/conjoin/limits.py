"""The largest numbers that conjoin takes from a file or a caller, each in one place with its reason.

A limit stands far above what real models need and far below what takes a machine down: it turns a typing mistake or
a hostile file into an error instead of an hour of waiting. Standard library only, like `errors`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a setting may have, as a test and as the words of an error."""

    holds: Callable[[Any], bool]
    words: str


JSON_BYTES = 1 << 29
"""Bytes of one JSON file: 512 MiB. The largest tokenizer.json known has 35 MB; parsing takes ten times the memory."""

JSON_DEPTH = 100
"""Lists and objects inside one another in JSON. Real files have less than 12; copying and writing recurse per level."""

LAYERS = 4096
"""Layers of one stack. The deepest published transformer has 1,000 (DeepNet); building takes time for each."""

WIDTH = 1 << 20
"""hidden_size, intermediate_size, heads and head sizes. The widest published layer has 131,072 units."""

VOCAB = 1 << 24
"""Rows of an embedding table. The largest published vocabulary has 1,000,000 tokens (XLM-V)."""

POSITIONS = 1 << 28
"""Positions that a config may promise. The longest published context has 10 million tokens (Llama 4)."""

JSON_DIGITS = 4300
"""Digits of a whole number in JSON: Python's own limit, above which turning text into a number takes quadratic time."""

EXTRA_IDS = 1 << 14
"""Sentinels `<extra_id_...>` that T5's settings ask for. Published checkpoints have 100 to 300."""

ROW_TOKENS = 1 << 24
"""Tokens that one text is filled up to. The longest published context has 10 million; each takes some 60 bytes."""

LINE_BYTES = 1 << 26
"""Bytes of one line of data: 64 MiB. A text of 10 million tokens, the longest published context, has some 40 MB."""

UNPACKED_FREE = 1 << 28
"""Bytes that any .gz file may become: 256 MiB, which every machine has."""

UNPACKED_TIMES = 250
"""How many times its size a .gz file may become beyond that. Texts become 3 to 50 times larger; bombs a thousand."""

DATA_PROBLEMS = 20
"""Problems of data after which reading stops; more of them teach nothing."""

STEPS = 1 << 53
"""Steps, epochs and tokens of a run: up to here every whole number is a float of its own, too."""

RECIPE_BYTES = 1 << 20
"""Bytes of a recipe. One with every word has 3 kB; YAML is read at about 100 kB a second."""

RECIPE_DEPTH = 20
"""Lists and mappings inside one another in a recipe, which needs one level; YAML's reader recurses per level."""

RECIPE_LETTERS = 10_000
"""Letters of one value of a recipe, a path or a prefix; YAML reads `1:1:1:...` as a number, in quadratic time."""

ROWS_PER_SOURCE = 1 << 14
"""Beams, or results, of one source: 16,384. Searches in papers have up to 1,000 beams, code benchmarks 200 results."""

DRAFT_TOKENS = 1 << 12
"""Tokens of one draft. Drafts that pay have 2 to 40; how long one shall be is worked out for every length up to it."""

RESULT_TOKENS = 1 << 20
"""Tokens of one result, prompt included. They are reserved before the first is written."""

BATCH_TOKENS = 1 << 26
"""Tokens of all rows of a call together: 0.5 GB for each of the tables that hold them, and far more for the cache."""
