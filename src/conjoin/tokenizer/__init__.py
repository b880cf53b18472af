"""Text to ids and back. `AutoTokenizer.from_pretrained(folder_or_hub_id)` loads whatever is there."""

from conjoin._lazy import public_dir
from conjoin.tokenizer.auto import AutoTokenizer
from conjoin.tokenizer.batch import BatchEncoding
from conjoin.tokenizer.byt5 import ByT5Tokenizer, ByT5TokenizerFast
from conjoin.tokenizer.families import (
    BartTokenizer,
    BartTokenizerFast,
    BertTokenizer,
    BertTokenizerFast,
    DistilBertTokenizer,
    DistilBertTokenizerFast,
    ElectraTokenizer,
    ElectraTokenizerFast,
    GemmaTokenizer,
    GemmaTokenizerFast,
    GPT2Tokenizer,
    GPT2TokenizerFast,
    GPTNeoXTokenizer,
    GPTNeoXTokenizerFast,
    LlamaTokenizer,
    LlamaTokenizerFast,
    OPTTokenizer,
    OPTTokenizerFast,
    Qwen2Tokenizer,
    Qwen2TokenizerFast,
    RobertaTokenizer,
    RobertaTokenizerFast,
)
from conjoin.tokenizer.mbart import MBart50Tokenizer, MBart50TokenizerFast, MBartTokenizer, MBartTokenizerFast
from conjoin.tokenizer.pair import TokenizerPair
from conjoin.tokenizer.registry import needs_no_vocabulary
from conjoin.tokenizer.tokenizer import Tokenizer
from conjoin.tokenizer.unigram import (
    AlbertTokenizer,
    AlbertTokenizerFast,
    CamembertTokenizer,
    CamembertTokenizerFast,
    T5Tokenizer,
    T5TokenizerFast,
    XLMRobertaTokenizer,
    XLMRobertaTokenizerFast,
)

PreTrainedTokenizerFast = Tokenizer
"""transformers' name for a tokenizer that tokenizer.json describes whole."""

__all__ = [
    "AlbertTokenizer",
    "AlbertTokenizerFast",
    "AutoTokenizer",
    "BartTokenizer",
    "BartTokenizerFast",
    "BatchEncoding",
    "BertTokenizer",
    "BertTokenizerFast",
    "ByT5Tokenizer",
    "ByT5TokenizerFast",
    "CamembertTokenizer",
    "CamembertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
    "ElectraTokenizer",
    "ElectraTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GPTNeoXTokenizer",
    "GPTNeoXTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "MBart50Tokenizer",
    "MBart50TokenizerFast",
    "MBartTokenizer",
    "MBartTokenizerFast",
    "OPTTokenizer",
    "OPTTokenizerFast",
    "PreTrainedTokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
    "RobertaTokenizer",
    "RobertaTokenizerFast",
    "T5Tokenizer",
    "T5TokenizerFast",
    "Tokenizer",
    "TokenizerPair",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "needs_no_vocabulary",
]

__dir__ = public_dir(__all__)
