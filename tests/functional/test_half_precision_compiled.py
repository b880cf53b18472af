"""On JAX and TensorFlow every family runs in every half precision, forward and in generate."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conjoin import FlaxEncoderDecoderModel, TFEncoderDecoderModel
from lanes import lanes
from oracle_tiny import TINY, can_decode
from padded_rows import whole_or_joined

FAMILIES = sorted({key.split("/", maxsplit=1)[0] for key in TINY if can_decode(key)})
IDS, LABELS = np.array([[15, 16, 17, 18]]), np.array([[18, 19, 12]])


def saved(key: str, folder: Path) -> Path:
    torch.manual_seed(0)
    whole_or_joined(key).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("key", lanes(FAMILIES, lambda key: key == "t5"))
def test_tensorflow_runs_every_family_in_half_precision(key: str, tmp_path: Path) -> None:
    folder = saved(key, tmp_path)
    exact = float(TFEncoderDecoderModel.from_pretrained(folder)(IDS, labels=LABELS).loss)
    for dtype in ("mixed_bfloat16", "mixed_float16"):
        model = TFEncoderDecoderModel.from_pretrained(folder, dtype=dtype)
        assert float(model(IDS, labels=LABELS).loss) == pytest.approx(exact, rel=0.1)
        assert model.generate(IDS, max_new_tokens=3).shape[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("key", FAMILIES)
def test_jax_runs_every_family_in_half_precision(key: str, tmp_path: Path) -> None:
    folder = saved(key, tmp_path)
    exact = float(FlaxEncoderDecoderModel.from_pretrained(folder)(IDS, labels=LABELS).loss)
    for dtype in ("bfloat16", "float16"):
        model = FlaxEncoderDecoderModel.from_pretrained(folder, dtype=dtype)
        assert float(model(IDS, labels=LABELS).loss) == pytest.approx(exact, rel=0.1)
        assert model.generate(IDS, max_new_tokens=3).sequences.shape[0] == 1
