"""One step of training as a pure, compiled function; the optimizer is any of optax's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from conjoin import spec
from conjoin.errors import TrainingError
from conjoin.functional.loss import IGNORED
from conjoin.functional.programs import CompileKey, ForwardOptions
from conjoin.jax.calls import target_rules
from conjoin.jax.dtypes import dtype_name
from conjoin.jax.params import ParameterModel, Params
from conjoin.jax.programs import forward

Batch = Mapping[str, jax.Array]


class Optimizer(Protocol):
    """optax's GradientTransformation."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a step changes.

    Args:
        params: What is trained, by canonical name.
        fixed: The other parameters: frozen ones, and tables that are never trained.
    """

    step: Int[Array, ""]
    params: Params
    fixed: Params
    opt_state: Any

    @property
    def all_params(self) -> Params:
        """Copies of every parameter, for `model.params = state.all_params`: the next step gives the state's away."""
        return {name: jnp.array(value) for name, value in {**self.params, **self.fixed}.items()}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """What a step measures.

    Args:
        loss: Mean over the counted labels.
        grad_norm: Over all gradients, before the optimizer sees them.
        tokens: Counted labels.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    tokens: Int[Array, ""]


def parameter_table(model: ParameterModel) -> dict[str, spec.Parameter]:
    """What every parameter of a model is: its axes, whether it is trained."""
    table = spec.pair_parameters(model.spec)
    return {name: table[name] for name in model.flat_params}


def decays(params: Params) -> dict[str, bool]:
    """Which parameters weight decay applies to, matrices: what optax takes as `mask=decays`."""
    return {name: value.ndim > 1 for name, value in params.items()}


def init_state(
    model: ParameterModel, optimizer: Optimizer, *, trained: Callable[[str], bool] | None = None
) -> TrainState:
    """A state to begin with; the model's arrays are copied, since steps give theirs away.

    Args:
        trained: Which parameters are, by canonical name; all that can be if missing.

    Raises:
        TrainingError: none is.
    """
    table = parameter_table(model)
    chosen = {name for name, kind in table.items() if kind.trained and (trained is None or trained(name))}
    if not chosen:
        raise TrainingError("Every parameter is frozen; there is nothing to train.")
    copies = {name: jnp.array(value) for name, value in model.flat_params.items()}
    params = {name: value for name, value in copies.items() if name in chosen}
    fixed = {name: value for name, value in copies.items() if name not in chosen}
    return TrainState(jnp.int32(0), params, fixed, optimizer.init(params))


def make_train_step(
    model: ParameterModel,
    optimizer: Optimizer,
    *,
    gradient_checkpointing: bool = False,
    smoothing: float = 0.0,
    dtype: Any = None,
    dropout: bool = True,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """A compiled step: (state, batch, key) -> (state, metrics). The old state's arrays are given away.

    Batches hold input_ids, attention_mask and labels (see the model's call). Pad them to few lengths: each set of
    shapes is compiled. The same key at every step is right: it is folded with the step's number.

    Args:
        gradient_checkpointing: Compute each block again in the backward pass.
        dtype: What forward and backward are computed in ("bfloat16"); parameters and optimizer keep their own.
        dropout: Whether numbers are dropped.
    """
    compile_key = model.key if dtype is None else replace(model.key, dtype=dtype_name(dtype))
    options = ForwardOptions(recompute=gradient_checkpointing, smoothing=smoothing, output_logits=False)

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        rules = target_rules(model.config, dict(batch))
        rng = jax.random.fold_in(key, state.step) if dropout else None
        loss, gradients = jax.value_and_grad(_loss)(
            state.params, state.fixed, compile_key, replace(options, rules=rules), batch, rng
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = {name: value + updates[name].astype(value.dtype) for name, value in state.params.items()}
        metrics = Metrics(loss, _norm(gradients), jnp.sum(batch["labels"] != IGNORED))
        return TrainState(state.step + 1, params, state.fixed, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def _loss(
    params: Params, fixed: Params, key: CompileKey, options: ForwardOptions, batch: Batch, rng: jax.Array | None
) -> jax.Array:
    loss = forward(key, options, {**params, **fixed}, batch, rng).loss
    assert loss is not None
    return loss


def _norm(gradients: Params) -> Float[Array, ""]:
    squares = (jnp.sum(jnp.square(value.astype(jnp.float32))) for value in gradients.values())
    return jnp.sqrt(sum(squares, jnp.float32(0)))
