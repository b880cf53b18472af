"""A training step on JAX: PyTorch's numbers, frozen parts, gradient checkpointing, half precision, several devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from conjoin import BertConfig, EncoderDecoderModel, FlaxEncoderDecoderModel
from conjoin.errors import ShapeError, TrainingError
from conjoin.jax.sharding import make_mesh, shard_batch
from conjoin.jax.training import decays, init_state, make_train_step
from jax_models import inputs
from pairs import SMALL, SOURCE, TARGET, batch, fresh, stir

STEPS = 3
RATE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    stir(fresh()).save_pretrained(folder)
    return folder


def adamw() -> optax.GradientTransformation:
    return optax.adamw(RATE, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1, mask=decays)


def torchs_losses(model: EncoderDecoderModel, given: dict[str, Any]) -> list[float]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(**given).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_steps_go_as_pytorchs_steps_and_checkpointing_changes_nothing(folder: Path) -> None:
    given = batch()
    theirs = EncoderDecoderModel.from_pretrained(folder)
    expected = torchs_losses(theirs, given)
    model = FlaxEncoderDecoderModel.from_pretrained(folder)
    optimizer = adamw()
    step = make_train_step(model, optimizer, gradient_checkpointing=True)
    state, losses = init_state(model, optimizer), []
    for _ in range(STEPS):
        state, metrics = step(state, inputs(given), jax.random.key(0))
        losses.append(float(metrics.loss))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert int(state.step) == STEPS and int(metrics.tokens) == int((given["labels"] != -100).sum())
    model.params = state.all_params
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(model.flat_params[name], parameter.detach().numpy(), atol=RATE)


def test_frozen_parts_stay_and_half_precision_keeps_float32_parameters(folder: Path) -> None:
    model = FlaxEncoderDecoderModel.from_pretrained(folder)
    before = model.flat_params
    optimizer = optax.sgd(0.1)
    state = init_state(model, optimizer, trained=lambda name: ".cross_attn." in name)
    state, metrics = make_train_step(model, optimizer, dtype="bfloat16")(state, inputs(batch()), jax.random.key(0))
    assert np.isfinite(float(metrics.grad_norm)) and float(metrics.grad_norm) > 0
    moved = {name for name, value in state.all_params.items() if not np.array_equal(value, before[name])}
    assert moved and all(".cross_attn." in name for name in moved)
    assert {str(value.dtype) for value in state.params.values()} == {"float32"}
    with pytest.raises(TrainingError, match="Every parameter is frozen"):
        init_state(model, optimizer, trained=lambda name: False)


def test_a_batch_that_does_not_split_says_so() -> None:
    with pytest.raises(ShapeError, match="needs 64 devices"):
        make_mesh(data=64)
    mesh = make_mesh(data=1)
    assert shard_batch({"labels": np.zeros((3, 2))}, mesh)["labels"].shape == (3, 2)


_ON_EIGHT_DEVICES = """
import json, sys
import jax, numpy as np, optax
from conjoin import FlaxEncoderDecoderModel
from conjoin.jax.sharding import FULLY_SHARDED, TENSOR_PARALLEL, make_mesh, param_shardings, shard_batch, shard_params
from conjoin.jax.sharding import shard_state
from conjoin.jax.training import init_state, make_train_step

jax.config.update("jax_disable_most_optimizations", True)
folder, batch = sys.argv[1], {name: np.array(x, np.int32) for name, x in json.loads(sys.argv[2]).items()}
source = {name: batch[name] for name in ("input_ids", "attention_mask")}
told = []
for rules, shape in ((None, (1, 1)), (TENSOR_PARALLEL, (2, 4)), (FULLY_SHARDED, (4, 2))):
    model = FlaxEncoderDecoderModel.from_pretrained(folder)
    optimizer, state, given, cut = optax.sgd(0.1), None, batch, 0
    state = init_state(model, optimizer)
    if rules is not None:
        mesh = make_mesh(data=shape[0], model=shape[1])
        state, given = shard_state(model, state, mesh, rules), shard_batch(batch, mesh)
        cut = sum(not where.is_fully_replicated for where in param_shardings(model, mesh, rules).values())
    step, losses = make_train_step(model, optimizer), []
    for _ in range(2):
        state, metrics = step(state, given, jax.random.key(0))
        losses.append(float(metrics.loss))
    model.params = {name: np.asarray(value) for name, value in state.all_params.items()}
    if rules is not None:
        shard_params(model, mesh, rules)
    found = [model.generate(**source, max_new_tokens=6, num_beams=n).sequences.tolist() for n in (1, 2)]
    told.append({"losses": losses, "ids": found, "cut": cut})
print(json.dumps(told))
"""


@pytest.mark.slow
def test_eight_devices_learn_and_write_what_one_does(tmp_path: Path) -> None:
    """Sizes that a mesh divides."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 64}
    halves = [BertConfig(**{**SMALL, **sizes}) for _ in range(2)]
    stir(fresh(*halves)).save_pretrained(tmp_path)
    given = {name: x.repeat(2, 1).tolist() for name, x in batch().items()}
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", _ON_EIGHT_DEVICES, str(tmp_path), json.dumps(given)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, *others = json.loads(done.stdout)
    assert one["cut"] == 0
    for other in others:
        assert other["cut"] > 10
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
        assert other["ids"] == one["ids"]


def test_an_nnx_module_holds_the_same_parameters_and_trains(folder: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")
    from conjoin.jax.flax import EncoderDecoder

    model = FlaxEncoderDecoderModel.from_pretrained(folder)
    module = EncoderDecoder(model, rngs=nnx.Rngs(dropout=0))
    given = inputs(batch())
    assert np.array_equal(module(**given).logits, model(**given).logits)
    optimizer = nnx.Optimizer(module, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(module: Any, optimizer: Any, given: Any) -> Any:
        loss, gradients = nnx.value_and_grad(lambda m: m(**given).loss)(module)
        optimizer.update(module, gradients)
        return loss

    losses = [float(step(module, optimizer, given)) for _ in range(2)]
    np.testing.assert_allclose(losses[0], float(model(**given).loss), rtol=1e-5)
    assert losses[1] < losses[0]
    model.params = module.flat_params
    assert float(model(**given).loss) < losses[1]
    assert jnp.isfinite(model.flat_params["encoder.embed.words.weight"]).all()


def test_an_nnx_module_that_drops_numbers_needs_them(tmp_path: Path) -> None:
    pytest.importorskip("flax.nnx")
    from conjoin.jax.flax import EncoderDecoder

    stir(fresh(SOURCE.copy(hidden_dropout_prob=0.5), TARGET)).save_pretrained(tmp_path)
    module = EncoderDecoder(FlaxEncoderDecoderModel.from_pretrained(tmp_path))
    module.train()
    with pytest.raises(ShapeError, match="dropout"):
        module(**inputs(batch()))
