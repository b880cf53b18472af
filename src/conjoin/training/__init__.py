"""Training: data, batches, arguments, schedules, the run and its folder; `training.torch` and `.jax` are the engines.

Nothing at this level imports a framework.
"""

from typing import TYPE_CHECKING

from conjoin._lazy import lazy_names, public_dir

if TYPE_CHECKING:
    from conjoin.texts.pairs import Pairs as Pairs
    from conjoin.texts.pairs import read_pairs as read_pairs
    from conjoin.training.data.corpus import RawText as RawText
    from conjoin.training.data.examples import Examples as Examples
    from conjoin.training.data.tokenizing import tokenize_pairs as tokenize_pairs
    from conjoin.training.folder.state import TrainerState as TrainerState
    from conjoin.training.loop.callbacks import TrainerCallback as TrainerCallback
    from conjoin.training.loop.callbacks import TrainerControl as TrainerControl
    from conjoin.training.settings.arguments import TrainingArguments as TrainingArguments
    from conjoin.training.settings.recipe import Recipe as Recipe
    from conjoin.training.torch.saving import SavesPretrained as SavesPretrained
    from conjoin.training.torch.trainer import Seq2SeqTrainer as Seq2SeqTrainer

_HOMES = {
    "Examples": "data.examples",
    "Pairs": ".texts.pairs",
    "RawText": "data.corpus",
    "Recipe": "settings.recipe",
    "SavesPretrained": "torch.saving",
    "Seq2SeqTrainer": "torch.trainer",
    "TrainerCallback": "loop.callbacks",
    "TrainerControl": "loop.callbacks",
    "TrainerState": "folder.state",
    "TrainingArguments": "settings.arguments",
    "read_pairs": ".texts.pairs",
    "tokenize_pairs": "data.tokenizing",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__ = lazy_names(__name__, _HOMES)
__dir__ = public_dir(__all__)
