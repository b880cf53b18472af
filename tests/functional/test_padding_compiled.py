"""On JAX and TensorFlow, too, padding changes nothing, wherever it stands."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conjoin import FlaxEncoderDecoderModel, TFEncoderDecoderModel
from lanes import lanes
from padded_rows import PROMPTS, ROWS, padded, where, whole_or_joined

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
KEYS = ["gpt2", "roberta/small", "mistral", "t5/gated"]
LABELS = np.array([[14, 15, 7], [22, 7, -100], [31, 7, -100]])


@pytest.fixture(params=lanes(KEYS, lambda key: key == "roberta/small"), scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("padding")
    torch.manual_seed(0)
    whole_or_joined(request.param).save_pretrained(path)
    return path


@pytest.mark.parametrize("backend", [FlaxEncoderDecoderModel, TFEncoderDecoderModel])
def test_padded_rows_are_read_and_answered_as_they_are_alone(folder: Path, backend: type) -> None:
    model = backend.from_pretrained(folder)
    rows = [np.array([row]) for row in ROWS]
    wanted = [np.asarray(model.encode(row).last_hidden_state)[0] for row in rows]
    given = {"max_new_tokens": 5, "min_new_tokens": 5}

    def write(ids: np.ndarray, **more: object) -> np.ndarray:
        out = model.generate(ids, **given, **more)
        return np.asarray(getattr(out, "sequences", out))

    prompts = np.array([[0] * (4 - len(prompt)) + prompt for prompt in PROMPTS])
    real = np.array([[0] * (4 - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    alone = [
        write(row, decoder_input_ids=np.array([prompt]))[0, len(prompt) :].tolist()
        for row, prompt in zip(rows, PROMPTS, strict=True)
    ]
    losses = [model(row, labels=LABELS[at : at + 1]).logits[0] for at, row in enumerate(rows)]
    for side in ("left", "between"):
        ids, mask = (tensor.numpy() for tensor in padded(side))
        states = np.asarray(model.encode(ids, mask).last_hidden_state)
        logits = model(ids, mask, labels=LABELS).logits
        for at, row in enumerate(ROWS):
            np.testing.assert_allclose(states[at, where(side, len(row))], wanted[at], **CLOSE)
            np.testing.assert_allclose(logits[at], losses[at], **CLOSE)
        found = write(ids, attention_mask=mask, decoder_input_ids=prompts, decoder_attention_mask=real)
        assert found[:, 4:].tolist() == alone, side
