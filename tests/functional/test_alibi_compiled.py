"""ALiBi in JAX and TensorFlow is PyTorch's, to the bit where it is rounded as Falcon's is."""

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch

from conjoin import spec
from conjoin.functional.positions import alibi
from conjoin.jax.ops import OPS as JAX
from conjoin.tensorflow.ops import OPS as TF
from conjoin.torch.model.positions import Alibi

HEADS, LENGTH = 12, 1501


@pytest.mark.parametrize("kind", [spec.Alibi(), spec.Alibi(scale=0.3), spec.Alibi(rounded=True, scale=0.25)])
def test_biases_of_far_distances_are_pytorchs(kind: spec.Alibi) -> None:
    places = np.arange(LENGTH, dtype=np.int32)[None]
    expected = Alibi(kind, HEADS)(3, torch.from_numpy(places), torch.float32).numpy()
    by_jax = jax.jit(lambda where: alibi(JAX, kind, HEADS, where[:, -3:], where))(places)
    by_tf = tf.function(lambda where: alibi(TF, kind, HEADS, where[:, -3:], where))(tf.constant(places))
    for found in (np.asarray(by_jax), by_tf.numpy()):
        np.testing.assert_allclose(found, expected, rtol=0 if kind.rounded else 1e-6)
