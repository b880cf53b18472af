"""Adapters of others around our models: which kinds are refused."""

from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from conjoin.errors import ConfigError
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


def watch_wrappers() -> None:
    """Let PyTorch call `refuse_learnt_prompts` from here on."""
    register_module_module_registration_hook(refuse_learnt_prompts)
