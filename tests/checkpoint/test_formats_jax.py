"""Weights that transformers' Flax and TensorFlow classes wrote, on JAX: their results, and PyTorch's parameters."""

from pathlib import Path

import numpy as np
import pytest

from conjoin import FlaxEncoderDecoderModel
from format_files import FIXTURES, FOLDERS, expected
from jax_models import assert_close, inputs
from lanes import lanes

PAIRS = [f for f in FOLDERS if not f.name.startswith("half")]
FLAX = [folder for folder in PAIRS if folder.parent.name == "flax"]
TENSORFLOW = [
    FIXTURES / "tf" / name for name in ("bert_bert-narrow_h5-sharded", "bert-narrow_gpt2_safetensors", "bart_h5")
]


FILES = FLAX + TENSORFLOW


@pytest.mark.parametrize("folder", lanes(FILES, FILES[::6].__contains__), ids=lambda f: f"{f.parent.name}/{f.name}")
def test_a_file_of_another_framework_gives_its_results(folder: Path) -> None:
    batch, wanted = expected(folder)
    model = FlaxEncoderDecoderModel.from_pretrained(folder, dtype="float32", **{f"from_{folder.parent.name}": True})
    if "bfloat16" in folder.name:
        model.params = model.to_fp32(model.params)
    assert_close(model(**inputs(batch)).logits, wanted)


def test_halves_of_two_frameworks_join() -> None:
    model = FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(
        FIXTURES / "tf" / "half-bert_h5",
        FIXTURES / "flax" / "half-gpt2_msgpack",
        encoder_from_tf=True,
        decoder_from_flax=True,
        decoder_start_token_id=2,
    )
    batch, _ = expected(FIXTURES / "flax" / "half-bert_msgpack")
    logits = model(**inputs(batch), decoder_input_ids=np.ones((2, 3), np.int32)).logits
    assert np.isfinite(logits).all()
