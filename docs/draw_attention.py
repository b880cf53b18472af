"""Draw what a trained model reads of its source: docs/attention.svg, from the folder of a run that made a report.

The picture of the README is of `make demo`: python docs/draw_attention.py out/demo/model
"""

import re
import sys
from pathlib import Path

import numpy as np

from conjoin.training.report import attention
from conjoin.training.report.charts import heat_map

TARGET = Path(__file__).with_name("attention.svg")
ENLARGED = 2
STYLE = (
    "<style>text{font:12px sans-serif;fill:#222} .h{fill:#1f5fa8} .f{fill:#fff;stroke:#bbb}</style>"
    '<rect width="100%" height="100%" fill="#fff"/>'
)


def draw(folder: Path) -> str:
    """Return the first pair of a run as SVG: the mean over layers, a row per target token."""
    example = attention.read(folder / attention.FILE)[0]
    weights = np.mean([np.asarray(layer) for layer in example["layers"]], axis=0)
    svg = heat_map(example["target"], example["source"], weights.tolist())
    opening, _, rest = svg.partition(">")
    opening = re.sub(r' (width|height)="(\d+)"', lambda size: f' {size[1]}="{int(size[2]) * ENLARGED}"', opening)
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{STYLE}{rest}\n'


if __name__ == "__main__":
    TARGET.write_text(draw(Path(sys.argv[1])), encoding="utf-8")
