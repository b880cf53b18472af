"""Real small checkpoints, from packages that carry them; what transformers makes of them."""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

transformers.utils.logging.set_verbosity(logging.CRITICAL)
transformers.logging.disable_progress_bar()


def package_folder(name: str) -> Path | None:
    """Where an installed package lies, without importing it; None where it is not installed."""
    found = importlib.util.find_spec(name)
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else None


def unpack_gguf(file: Path, out: Path) -> Any:
    """Let transformers turn a GGUF file into an ordinary checkpoint with its tokenizer; returns its model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"gguf_file": file.name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **given)
        read = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **given)
        settings = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
        config = type(read.config)(**settings)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        model.load_state_dict(read.state_dict())  # a model that remembers its GGUF file refuses to be saved
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    return model.eval()


def continue_text(model: Any, input_ids: Tensor, count: int) -> Tensor:
    """The likeliest `count` tokens after a text, the text included; an end of text is no reason to stop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(
            input_ids,
            attention_mask=input_ids.new_ones(input_ids.shape),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            num_beams=1,
        )
