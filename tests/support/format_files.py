"""Files that transformers 4.57.6's TensorFlow and Flax classes wrote (tests/fixtures), and what these computed."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from conjoin import EncoderDecoderModel
from conjoin.checkpoint import Checkpoint, open_checkpoint, read_json
from conjoin.torch.pair.halves import Decoder, Encoder

FIXTURES = Path(__file__).parent / "fixtures"
FOLDERS = sorted(path.parent for path in FIXTURES.glob("*/*/expected.safetensors"))
IDS = [f"{folder.parent.name}/{folder.name}" for folder in FOLDERS]


def expected(folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs, and the results."""
    arrays = {
        name: torch.from_numpy(a) for name, a in safetensors.numpy.load_file(folder / "expected.safetensors").items()
    }
    result = arrays.pop("logits")
    return {name: tensor.long() for name, tensor in arrays.items()}, result


def load(folder: Path, **keywords: Any) -> EncoderDecoderModel | Encoder | Decoder:
    """What the folder holds, on PyTorch."""
    architecture = read_json(folder / "config.json")["architectures"][0]
    if "EncoderDecoder" in architecture or "ConditionalGeneration" in architecture:
        return EncoderDecoderModel.from_pretrained(folder, **keywords)
    kind = Decoder if "LMHead" in architecture else Encoder
    return kind.from_pretrained(folder, **keywords)


@torch.no_grad()
def results(model: EncoderDecoderModel | Encoder | Decoder, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, or the last hidden state of an encoder."""
    output: Any = model(**inputs)
    return output.last_hidden_state if isinstance(model, Encoder) else output.logits


def arrays(folder: Path, **keywords: Any) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint, under PyTorch's names."""
    with open_checkpoint(folder, **keywords) as checkpoint:
        return {name: np.array(checkpoint.array(name)) for name in checkpoint}


def stored(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Every tensor under the name that its file has for it."""
    found: dict[str, np.ndarray] = {}
    for part in checkpoint._parts:
        inner = getattr(part, "_part", part)
        found |= {name: np.array(inner.array(name)) for name in inner.infos}
    return found


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """The same names, with the same bits."""
    lost, more = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    assert not lost and not more, f"lost: {lost}, more: {more}"
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name
