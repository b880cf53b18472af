"""Adapters of others around our models: which kinds are refused, and what they may change."""

from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from conjoin.errors import ConfigError
from conjoin.torch.model.sharing import own_tensors
from conjoin.torch.pair.pretrained import Pretrained


def refuse_learnt_prompts(wrapper: nn.Module, name: str, module: Any) -> None:
    """Refuse peft's wrapper of prompt tuning, prefix tuning and their like: it puts vectors before a decoder's ids.

    PyTorch calls this where a module becomes another's child, so it speaks before peft reads or freezes anything.

    Raises:
        ConfigError: the wrapper is such a one, and the module is ours.
    """
    if isinstance(module, Pretrained) and vars(wrapper).get("_is_prompt_learning"):
        kind = getattr(vars(wrapper).get("peft_type"), "value", "prompt learning")
        raise ConfigError(
            f"{type(module).__name__} with {kind}: methods with learnt prompts are not supported.",
            hint='use adapters of weights: peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"]).',
        )


def own_what_is_adapted(wrapper: nn.Module, name: str, module: Any) -> None:
    """Give a layer that shares its tensors tensors of its own as soon as an adapter takes it for its base layer.

    PiSSA and OLoRA then take their part out of the base weight, before the adapter stands in the layer's place: out of
    a shared one it would be missing in the other half.
    """
    if name == "base_layer" and isinstance(module, nn.Module):
        own_tensors(module)


def watch_wrappers() -> None:
    """Let PyTorch call both from here on."""
    register_module_module_registration_hook(refuse_learnt_prompts)
    register_module_module_registration_hook(own_what_is_adapted)
