"""conjoin: any pretrained encoder and any pretrained decoder, joined into one sequence-to-sequence model."""

from typing import TYPE_CHECKING

from conjoin._lazy import lazy_names, public_dir

if TYPE_CHECKING:
    from conjoin.configuration import AutoConfig as AutoConfig
    from conjoin.configuration import EncoderDecoderConfig as EncoderDecoderConfig
    from conjoin.errors import ConfigError as ConfigError
    from conjoin.errors import ConjoinError as ConjoinError
    from conjoin.errors import ConjoinWarning as ConjoinWarning
    from conjoin.errors import DataError as DataError
    from conjoin.errors import FileError as FileError
    from conjoin.errors import GenerationError as GenerationError
    from conjoin.errors import JoinError as JoinError
    from conjoin.errors import MissingBackend as MissingBackend
    from conjoin.errors import ShapeError as ShapeError
    from conjoin.errors import TokenizerError as TokenizerError
    from conjoin.errors import TrainingError as TrainingError
    from conjoin.errors import WeightError as WeightError
    from conjoin.families import PretrainedConfig as PretrainedConfig
    from conjoin.families.albert import AlbertConfig as AlbertConfig
    from conjoin.families.bart import BartConfig as BartConfig
    from conjoin.families.bart import MBartConfig as MBartConfig
    from conjoin.families.bert import BertConfig as BertConfig
    from conjoin.families.distilbert import DistilBertConfig as DistilBertConfig
    from conjoin.families.electra import ElectraConfig as ElectraConfig
    from conjoin.families.gemma import Gemma2Config as Gemma2Config
    from conjoin.families.gemma import Gemma3TextConfig as Gemma3TextConfig
    from conjoin.families.gpt2 import GPT2Config as GPT2Config
    from conjoin.families.gpt_neox import GPTNeoXConfig as GPTNeoXConfig
    from conjoin.families.llama import LlamaConfig as LlamaConfig
    from conjoin.families.mistral import MistralConfig as MistralConfig
    from conjoin.families.modernbert import ModernBertConfig as ModernBertConfig
    from conjoin.families.modernbert import ModernBertDecoderConfig as ModernBertDecoderConfig
    from conjoin.families.opt import OPTConfig as OPTConfig
    from conjoin.families.qwen2 import Qwen2Config as Qwen2Config
    from conjoin.families.qwen3 import Qwen3Config as Qwen3Config
    from conjoin.families.roberta import CamembertConfig as CamembertConfig
    from conjoin.families.roberta import RobertaConfig as RobertaConfig
    from conjoin.families.roberta import XLMRobertaConfig as XLMRobertaConfig
    from conjoin.families.t5 import MT5Config as MT5Config
    from conjoin.families.t5 import T5Config as T5Config
    from conjoin.generation import GenerationConfig as GenerationConfig
    from conjoin.jax.model import FlaxEncoderDecoderModel as FlaxEncoderDecoderModel
    from conjoin.tensorflow.model import TFEncoderDecoderModel as TFEncoderDecoderModel
    from conjoin.tokenizer import AlbertTokenizer as AlbertTokenizer
    from conjoin.tokenizer import AlbertTokenizerFast as AlbertTokenizerFast
    from conjoin.tokenizer import AutoTokenizer as AutoTokenizer
    from conjoin.tokenizer import BartTokenizer as BartTokenizer
    from conjoin.tokenizer import BartTokenizerFast as BartTokenizerFast
    from conjoin.tokenizer import BatchEncoding as BatchEncoding
    from conjoin.tokenizer import BertTokenizer as BertTokenizer
    from conjoin.tokenizer import BertTokenizerFast as BertTokenizerFast
    from conjoin.tokenizer import ByT5Tokenizer as ByT5Tokenizer
    from conjoin.tokenizer import ByT5TokenizerFast as ByT5TokenizerFast
    from conjoin.tokenizer import CamembertTokenizer as CamembertTokenizer
    from conjoin.tokenizer import CamembertTokenizerFast as CamembertTokenizerFast
    from conjoin.tokenizer import DistilBertTokenizer as DistilBertTokenizer
    from conjoin.tokenizer import DistilBertTokenizerFast as DistilBertTokenizerFast
    from conjoin.tokenizer import ElectraTokenizer as ElectraTokenizer
    from conjoin.tokenizer import ElectraTokenizerFast as ElectraTokenizerFast
    from conjoin.tokenizer import GemmaTokenizer as GemmaTokenizer
    from conjoin.tokenizer import GemmaTokenizerFast as GemmaTokenizerFast
    from conjoin.tokenizer import GPT2Tokenizer as GPT2Tokenizer
    from conjoin.tokenizer import GPT2TokenizerFast as GPT2TokenizerFast
    from conjoin.tokenizer import GPTNeoXTokenizer as GPTNeoXTokenizer
    from conjoin.tokenizer import GPTNeoXTokenizerFast as GPTNeoXTokenizerFast
    from conjoin.tokenizer import LlamaTokenizer as LlamaTokenizer
    from conjoin.tokenizer import LlamaTokenizerFast as LlamaTokenizerFast
    from conjoin.tokenizer import MBart50Tokenizer as MBart50Tokenizer
    from conjoin.tokenizer import MBart50TokenizerFast as MBart50TokenizerFast
    from conjoin.tokenizer import MBartTokenizer as MBartTokenizer
    from conjoin.tokenizer import MBartTokenizerFast as MBartTokenizerFast
    from conjoin.tokenizer import OPTTokenizer as OPTTokenizer
    from conjoin.tokenizer import OPTTokenizerFast as OPTTokenizerFast
    from conjoin.tokenizer import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from conjoin.tokenizer import Qwen2Tokenizer as Qwen2Tokenizer
    from conjoin.tokenizer import Qwen2TokenizerFast as Qwen2TokenizerFast
    from conjoin.tokenizer import RobertaTokenizer as RobertaTokenizer
    from conjoin.tokenizer import RobertaTokenizerFast as RobertaTokenizerFast
    from conjoin.tokenizer import T5Tokenizer as T5Tokenizer
    from conjoin.tokenizer import T5TokenizerFast as T5TokenizerFast
    from conjoin.tokenizer import Tokenizer as Tokenizer
    from conjoin.tokenizer import TokenizerPair as TokenizerPair
    from conjoin.tokenizer import XLMRobertaTokenizer as XLMRobertaTokenizer
    from conjoin.tokenizer import XLMRobertaTokenizerFast as XLMRobertaTokenizerFast
    from conjoin.torch.cpu.threads import set_threads as set_threads
    from conjoin.torch.pair.model import EncoderDecoderModel as EncoderDecoderModel
    from conjoin.training.settings.arguments import TrainingArguments as TrainingArguments
    from conjoin.training.torch.trainer import Seq2SeqTrainer as Seq2SeqTrainer

__version__ = "0.1.0"

_HOMES = {
    "AlbertConfig": "families.albert",
    "AlbertTokenizer": "tokenizer",
    "AlbertTokenizerFast": "tokenizer",
    "AutoConfig": "configuration",
    "AutoTokenizer": "tokenizer",
    "BartConfig": "families.bart",
    "BartTokenizer": "tokenizer",
    "BartTokenizerFast": "tokenizer",
    "BatchEncoding": "tokenizer",
    "BertConfig": "families.bert",
    "BertTokenizer": "tokenizer",
    "BertTokenizerFast": "tokenizer",
    "ByT5Tokenizer": "tokenizer",
    "ByT5TokenizerFast": "tokenizer",
    "CamembertConfig": "families.roberta",
    "CamembertTokenizer": "tokenizer",
    "CamembertTokenizerFast": "tokenizer",
    "ConfigError": "errors",
    "ConjoinError": "errors",
    "ConjoinWarning": "errors",
    "DataError": "errors",
    "DistilBertConfig": "families.distilbert",
    "DistilBertTokenizer": "tokenizer",
    "DistilBertTokenizerFast": "tokenizer",
    "ElectraConfig": "families.electra",
    "ElectraTokenizer": "tokenizer",
    "ElectraTokenizerFast": "tokenizer",
    "EncoderDecoderConfig": "configuration",
    "EncoderDecoderModel": "torch.pair.model",
    "FileError": "errors",
    "FlaxEncoderDecoderModel": "jax.model",
    "GPT2Config": "families.gpt2",
    "GPT2Tokenizer": "tokenizer",
    "GPT2TokenizerFast": "tokenizer",
    "GPTNeoXConfig": "families.gpt_neox",
    "GPTNeoXTokenizer": "tokenizer",
    "GPTNeoXTokenizerFast": "tokenizer",
    "Gemma2Config": "families.gemma",
    "Gemma3TextConfig": "families.gemma",
    "GemmaTokenizer": "tokenizer",
    "GemmaTokenizerFast": "tokenizer",
    "GenerationConfig": "generation",
    "GenerationError": "errors",
    "JoinError": "errors",
    "LlamaConfig": "families.llama",
    "LlamaTokenizer": "tokenizer",
    "LlamaTokenizerFast": "tokenizer",
    "MBart50Tokenizer": "tokenizer",
    "MBart50TokenizerFast": "tokenizer",
    "MBartConfig": "families.bart",
    "MBartTokenizer": "tokenizer",
    "MBartTokenizerFast": "tokenizer",
    "MT5Config": "families.t5",
    "MissingBackend": "errors",
    "MistralConfig": "families.mistral",
    "ModernBertConfig": "families.modernbert",
    "ModernBertDecoderConfig": "families.modernbert",
    "OPTConfig": "families.opt",
    "OPTTokenizer": "tokenizer",
    "OPTTokenizerFast": "tokenizer",
    "PreTrainedTokenizerFast": "tokenizer",
    "PretrainedConfig": "families",
    "Qwen2Config": "families.qwen2",
    "Qwen2Tokenizer": "tokenizer",
    "Qwen2TokenizerFast": "tokenizer",
    "Qwen3Config": "families.qwen3",
    "RobertaConfig": "families.roberta",
    "RobertaTokenizer": "tokenizer",
    "RobertaTokenizerFast": "tokenizer",
    "Seq2SeqTrainer": "training.torch.trainer",
    "ShapeError": "errors",
    "T5Config": "families.t5",
    "T5Tokenizer": "tokenizer",
    "T5TokenizerFast": "tokenizer",
    "TFEncoderDecoderModel": "tensorflow.model",
    "Tokenizer": "tokenizer",
    "TokenizerError": "errors",
    "TokenizerPair": "tokenizer",
    "TrainingArguments": "training.settings.arguments",
    "TrainingError": "errors",
    "WeightError": "errors",
    "XLMRobertaConfig": "families.roberta",
    "XLMRobertaTokenizer": "tokenizer",
    "XLMRobertaTokenizerFast": "tokenizer",
    "set_threads": "torch.cpu.threads",
}
"""Public name -> module that has it. The one list, sorted; tests hold the imports above to it."""

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__ = lazy_names(__name__, _HOMES)

__dir__ = public_dir(__all__)
