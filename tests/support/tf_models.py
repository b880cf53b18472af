"""What the tests of the TensorFlow backend share."""

from typing import Any

import numpy as np
import tensorflow as tf
import torch
from torch import Tensor, nn

from conjoin import EncoderDecoderModel, T5Config
from pairs import GPT, SOURCE, TARGET, fresh, stir

CLOSE = {"rtol": 1e-5, "atol": 1e-5}

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)  # for the test of two devices; everything else runs on the first


def arrays_of(model: nn.Module) -> dict[str, Any]:
    """A torch model's parameters under their canonical names, shared ones under every name."""
    return {name: tf.constant(p.detach().numpy()) for name, p in model.named_parameters(remove_duplicate=False)}


def inputs(batch: dict[str, Tensor]) -> dict[str, Any]:
    """A batch of tensors as TensorFlow's."""
    return {name: tf.constant(tensor.numpy().astype(np.int32)) for name, tensor in batch.items()}


def assert_close(ours: Any, theirs: Tensor, mask: Tensor | None = None, **tolerance: float) -> None:
    """TensorFlow's numbers are torch's, where a mask says that somebody reads them."""
    mine, expected = np.asarray(ours), theirs.detach().numpy()
    if mask is not None:
        real = mask.numpy().astype(bool)[..., None]
        mine, expected = np.where(real, mine, 0), np.where(real, expected, 0)
    np.testing.assert_allclose(mine, expected, **{**CLOSE, **tolerance})


def same(ours: Any, theirs: Tensor) -> bool:
    """Whether ids are equal, shapes too."""
    return torch.is_tensor(theirs) and np.array_equal(np.asarray(ours), theirs.numpy())


T5 = T5Config(
    vocab_size=53, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_decoder_layers=2, num_heads=3, dropout_rate=0.0,
    feed_forward_proj="gated-gelu", tie_word_embeddings=False, pad_token_id=3, eos_token_id=7, decoder_start_token_id=3,
)  # fmt: skip


def torch_model(name: str = "bert-bert", **values: Any) -> EncoderDecoderModel:
    """A tiny model with random parameters, in evaluation mode: a pair with a projection between, or a whole T5."""
    torch.manual_seed(0)
    if name == "t5":
        model = EncoderDecoderModel(config=T5)
    else:
        model = fresh(SOURCE, {"bert": TARGET, "gpt2": GPT, "like": SOURCE}[name.split("-")[1]], **values)
    return stir(model, 0.3).eval()


def batch(rows: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Padded sources, and labels of which the last row's end is ignored."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 53, (rows, 7), generator=generator)
    mask = torch.ones_like(ids)
    ids[-1, 5:], mask[-1, 5:] = 4, 0
    labels = torch.randint(10, 53, (rows, 6), generator=generator)
    labels[-1, 4:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
