"""Files that transformers 4.57.6's TensorFlow and Flax classes wrote, read by TFEncoderDecoderModel."""

from pathlib import Path

import pytest

from conjoin import TFEncoderDecoderModel
from conjoin.checkpoint import read_json
from format_files import FOLDERS, expected
from lanes import lanes
from tf_models import assert_close

WHOLE = [
    folder
    for folder in FOLDERS
    if any(word in read_json(folder / "config.json")["architectures"][0] for word in ("EncoderDecoder", "Conditional"))
    and "bfloat16" not in folder.name
]


@pytest.mark.parametrize("folder", lanes(WHOLE, WHOLE[::6].__contains__), ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_file_of_another_framework_gives_its_results(folder: Path) -> None:
    model = TFEncoderDecoderModel.from_pretrained(folder)
    inputs, logits = expected(folder)
    found = model(**{name: x.numpy() for name, x in inputs.items()})
    assert_close(found.logits, logits)
