"""Adapters of other libraries (peft) around our models: unsupported kinds, and shared tensors that they change."""

from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from conjoin.errors import ConfigError
from conjoin.torch.model.sharing import own_tensors
from conjoin.torch.pair.pretrained import Pretrained


def refuse_learnt_prompts(wrapper: nn.Module, name: str, module: Any) -> None:
    """Refuse peft's wrapper for prompt tuning, prefix tuning and similar methods, which put vectors before decoder ids.

    PyTorch calls this when a module becomes the child of another, hence before peft reads or freezes anything.

    Raises:
        ConfigError: the wrapper is for such a method, and the module is ours.
    """
    if isinstance(module, Pretrained) and vars(wrapper).get("_is_prompt_learning"):
        kind = getattr(vars(wrapper).get("peft_type"), "value", "prompt learning")
        raise ConfigError(
            f"{type(module).__name__} with {kind}: methods with learnt prompts are not supported.",
            hint='use adapters of weights: peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"]).',
        )


def own_what_is_adapted(wrapper: nn.Module, name: str, module: Any) -> None:
    """Replace the shared tensors of a layer by copies when the layer becomes the base layer of an adapter.

    PiSSA and OLoRA subtract their part from the base weight before the adapter replaces the layer. Subtracted from a
    shared weight, it would be missing in the other half.
    """
    if name == "base_layer" and isinstance(module, nn.Module):
        own_tensors(module)


def watch_wrappers() -> None:
    """Register both functions as hooks of PyTorch."""
    register_module_module_registration_hook(refuse_learnt_prompts)
    register_module_module_registration_hook(own_what_is_adapted)
