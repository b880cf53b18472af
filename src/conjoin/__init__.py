"""conjoin: any pretrained encoder and any pretrained decoder, joined into one sequence-to-sequence model.

`__init__.pyi`, which type checkers read, is written by `make fix` from the table below; a test compares them.
"""

from conjoin._lazy import lazy_names, public_dir
from conjoin.model_types import MODULES

__version__ = "0.1.0"

_TOKENIZERS = (
    "Albert",
    "Bart",
    "Bert",
    "BertGeneration",
    "BigBird",
    "BioGpt",
    "Blenderbot",
    "BlenderbotSmall",
    "ByT5",
    "Camembert",
    "Deberta",
    "DebertaV2",
    "DistilBert",
    "Electra",
    "Gemma",
    "GPT2",
    "GPTNeoX",
    "LED",
    "Llama",
    "Longformer",
    "M2M100",
    "Marian",
    "MBart",
    "MBart50",
    "MPNet",
    "Mvp",
    "Nllb",
    "OpenAIGPT",
    "OPT",
    "Pegasus",
    "PLBart",
    "Qwen2",
    "Roberta",
    "T5",
    "XGLM",
    "XLMRoberta",
)
_NAMES = {
    "configuration": ("AutoConfig", "EncoderDecoderConfig"),
    "errors": (
        "ConfigError",
        "ConjoinError",
        "ConjoinWarning",
        "DataError",
        "FileError",
        "GenerationError",
        "JoinError",
        "MissingBackend",
        "ShapeError",
        "TokenizerError",
        "TrainingError",
        "WeightError",
    ),
    "families": ("PretrainedConfig",),
    "generation": ("GenerationConfig",),
    "jax.model": ("FlaxEncoderDecoderModel",),
    "pipelines": ("SummarizationPipeline", "Text2TextGenerationPipeline", "TranslationPipeline", "pipeline"),
    "surgery": ("average_checkpoints", "shrink", "trim"),
    "tensorflow.model": ("TFEncoderDecoderModel",),
    "tokenizer": (
        *("AutoTokenizer", "BatchEncoding", "PreTrainedTokenizerFast", "Tokenizer", "TokenizerPair"),
        *(f"{name}Tokenizer{fast}" for name in _TOKENIZERS for fast in ("", "Fast")),
    ),
    "torch.cpu.threads": ("set_threads",),
    "torch.generation.engine": ("Engine",),
    "torch.pair.model": ("EncoderDecoderModel",),
    "training.settings.arguments": ("TrainingArguments",),
    "training.torch.trainer": ("Seq2SeqTrainer",),
}
"""Module -> the public names that it has, but for the families' configs, which `model_types` lists."""

_CONFIGS = dict(place.split(".")[::-1] for place in MODULES.values())
_PLACES = [
    *((name, module) for module, names in _NAMES.items() for name in names),
    *((config, f"families.{module}") for config, module in _CONFIGS.items()),
]
_MODULE_OF = dict(sorted(_PLACES))

__all__ = list(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__ = lazy_names(__name__, _MODULE_OF)
__dir__ = public_dir(__all__)
