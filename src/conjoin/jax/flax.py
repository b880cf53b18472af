"""A model as a module of flax.nnx, for those whose training loop, optimizer or checkpointing expects one."""

from typing import Any

import jax
from flax import nnx

from conjoin.jax.outputs import Seq2SeqLMOutput
from conjoin.jax.training import parameter_table


class Fixed(nnx.Variable[Any]):
    """A parameter that is stored but never trained; `nnx.Optimizer(..., wrt=nnx.Param)` leaves it alone."""


class EncoderDecoder(nnx.Module):
    """The parameters of a FlaxEncoderDecoderModel as nnx.Param, and its call.

    The states of nnx are those parameters, nested by canonical name: `nnx.state(module)["parameters"]["encoder"]`.

    Args:
        model: Computes; its own parameters are not changed.
        rngs: `rngs.dropout` is drawn from in training.
    """

    def __init__(self, model: Any, *, rngs: nnx.Rngs | None = None) -> None:
        table = parameter_table(model)
        kinds = {name: nnx.Param if kind.trained else Fixed for name, kind in table.items()}
        self.parameters = _modules({name: kinds[name](value) for name, value in model.flat_params.items()})
        self.rngs = rngs
        self.deterministic = True
        self.model = model

    def __call__(self, *inputs: Any, **named: Any) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """The model's call; numbers are dropped after `module.train()`."""
        trains = not self.deterministic
        rng = self.rngs.dropout() if trains and self.rngs is not None else None
        return self.model(*inputs, **named, params=self.flat_params, train=trains, dropout_rng=rng)

    @property
    def flat_params(self) -> dict[str, jax.Array]:
        """The parameters as arrays, by canonical name; `model.params = module.flat_params` takes them back."""
        return {name: leaf[...] for name, leaf in _leaves(self.parameters).items()}


def _modules(flat: dict[str, Any]) -> Any:
    """Dotted names as nested nnx.Dict."""
    groups: dict[str, dict[str, Any]] = {}
    leaves: dict[str, Any] = {}
    for name, value in flat.items():
        first, _, rest = name.partition(".")
        if rest:
            groups.setdefault(first, {})[rest] = value
        else:
            leaves[first] = value
    return nnx.Dict({**leaves, **{name: _modules(group) for name, group in groups.items()}})


def _leaves(nested: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, nnx.Dict):
            found |= _leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
