"""Files of 8-bit models: parameters under their canonical names, each int8 matrix with float32 scales of its rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from conjoin import spec
from conjoin.checkpoint import ADAPTER_CONFIG, Checkpoint, NameTable, Rule, audit, has_adapter
from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig
from conjoin.join.plan import JoinReport, Offer, never_fresh, plan_join

QUANTIZED = "conjoin-int8"
_VOCAB = "decoder.head.vocab.weight"


def is_quantized(config: PretrainedConfig) -> bool:
    """True if a config is that of a model made by `quantize`.

    Raises:
        ConfigError: the model was quantised by another library.
    """
    quantization: Any = getattr(config, "quantization_config", None)
    if not quantization:
        return False
    if not hasattr(quantization, "get"):
        raise ConfigError(f"config.json: quantization_config = {quantization!r}; expected an object.")
    if (method := quantization.get("quant_method")) != QUANTIZED:
        raise ConfigError(
            f"config.json: quantization_config has quant_method {method!r}; conjoin loads {QUANTIZED!r} only.",
            hint="use the model that this one was made from; in Python, model.quantize('int8') then quantises it.",
        )
    return True


def require_plain_weights(folder: Path, config: PretrainedConfig, doing: str) -> None:
    """Refuse a model whose files hold its weights in another form than they were trained in.

    Args:
        doing: What shall be done to it, for errors.

    Raises:
        ConfigError: it is quantised, or has an adapter.
    """
    if has_adapter(folder):
        raise ConfigError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}) beside its weights; {doing} would leave it out.",
            hint="write the merged model first: EncoderDecoderModel.from_pretrained(folder).save_pretrained(another); "
            "for a single model, peft's merge_and_unload.",
        )
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"{folder} is quantised; {doing} needs the weights as they were trained.",
            hint="take the model that this one was made from, and quantise the result.",
        )


def plan_quantized(pair: spec.PairSpec, checkpoint: Checkpoint) -> JoinReport:
    """Plan the origin of every parameter of an 8-bit model.

    Raises:
        WeightError: missing or misshapen tensors.
    """
    table = NameTable(tuple(Rule(name, name) for name in {**spec.pair_parameters(pair), _VOCAB: None}))
    offer = Offer(str(checkpoint.folder), checkpoint, table)
    plan = plan_join(pair, [offer], init="normal", fresh_allowed=never_fresh)
    scales = {
        f"{name.removesuffix('weight')}scale": info.shape[:1]
        for name, info in checkpoint.items()
        if info.dtype == "int8"
    }
    if (head := pair.decoder.head) is not None and head.tied:  # in 8 bits it has its own matrix
        scales |= {_VOCAB: (head.vocab_size, head.size), _VOCAB.replace("weight", "scale"): (head.vocab_size,)}
    actual = {name: checkpoint[name].shape for name in scales if name in checkpoint}
    audit(scales, actual, label=offer.label).raise_for()
    unused = {label: tuple(name for name in names if name not in scales) for label, names in plan.unused.items()}
    return replace(plan, unused=unused)
