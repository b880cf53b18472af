"""8-bit models' files: parameters under their canonical names, each int8 matrix beside the float32 unit of its rows."""

from dataclasses import replace
from typing import Any

from conjoin import spec
from conjoin.checkpoint import Checkpoint, NameTable, Rule, audit
from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig
from conjoin.join.plan import JoinReport, Offer, never_fresh, plan_join

QUANTIZED = "conjoin-int8"
_VOCAB = "decoder.head.vocab.weight"


def is_quantized(config: PretrainedConfig) -> bool:
    """Whether a config is of a model that `quantize` made.

    Raises:
        ConfigError: it is quantised in a way of somebody else's.
    """
    found: Any = getattr(config, "quantization_config", None)
    if not found:
        return False
    if not hasattr(found, "get"):
        raise ConfigError(f"config.json: quantization_config = {found!r}; expected an object.")
    if found.get("quant_method") != QUANTIZED:
        raise ConfigError(
            f"config.json: quantization_config has quant_method {found.get('quant_method')!r}; this library reads "
            f"{QUANTIZED!r} only.",
            hint="load the model that this one was made of, and call model.quantize('int8').",
        )
    return True


def plan_quantized(pair: spec.PairSpec, checkpoint: Checkpoint) -> JoinReport:
    """Where every parameter of an 8-bit model comes from.

    Raises:
        WeightError: missing or misshapen tensors.
    """
    table = NameTable(tuple(Rule(name, name) for name in {**spec.pair_parameters(pair), _VOCAB: None}))
    offer = Offer(str(checkpoint.folder), checkpoint, table)
    plan = plan_join(pair, [offer], init="normal", fresh_allowed=never_fresh)
    units = {
        f"{name.removesuffix('weight')}scale": info.shape[:1]
        for name, info in checkpoint.items()
        if info.dtype == "int8"
    }
    if (head := pair.decoder.head) is not None and head.tied:  # in 8 bits it is a matrix of its own
        units |= {_VOCAB: (head.vocab_size, head.size), _VOCAB.replace("weight", "scale"): (head.vocab_size,)}
    found = {name: checkpoint[name].shape for name in units if name in checkpoint}
    audit(units, found, label=offer.label).raise_for()
    unused = {label: tuple(name for name in names if name not in units) for label, names in plan.unused.items()}
    return replace(plan, unused=unused)
