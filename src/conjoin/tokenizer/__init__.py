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
    BlenderbotTokenizer,
    BlenderbotTokenizerFast,
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
    LEDTokenizer,
    LEDTokenizerFast,
    LlamaTokenizer,
    LlamaTokenizerFast,
    LongformerTokenizer,
    LongformerTokenizerFast,
    MPNetTokenizer,
    MPNetTokenizerFast,
    MvpTokenizer,
    MvpTokenizerFast,
    OPTTokenizer,
    OPTTokenizerFast,
    Qwen2Tokenizer,
    Qwen2TokenizerFast,
    RobertaTokenizer,
    RobertaTokenizerFast,
)
from conjoin.tokenizer.m2m100 import M2M100Tokenizer
from conjoin.tokenizer.marian import MarianTokenizer
from conjoin.tokenizer.mbart import MBart50Tokenizer, MBart50TokenizerFast, MBartTokenizer, MBartTokenizerFast
from conjoin.tokenizer.metaspace import (
    BigBirdTokenizer,
    BigBirdTokenizerFast,
    DebertaV2Tokenizer,
    DebertaV2TokenizerFast,
    PegasusTokenizer,
    PegasusTokenizerFast,
    XGLMTokenizer,
    XGLMTokenizerFast,
)
from conjoin.tokenizer.nllb import NllbTokenizer, NllbTokenizerFast
from conjoin.tokenizer.pair import TokenizerPair
from conjoin.tokenizer.plbart import BertGenerationTokenizer, PLBartTokenizer
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
from conjoin.tokenizer.wordbpe import BioGptTokenizer, BlenderbotSmallTokenizer

PreTrainedTokenizerFast = Tokenizer
"""transformers' name for a tokenizer that tokenizer.json describes whole."""

__all__ = [
    "AlbertTokenizer",
    "AlbertTokenizerFast",
    "AutoTokenizer",
    "BartTokenizer",
    "BartTokenizerFast",
    "BatchEncoding",
    "BertGenerationTokenizer",
    "BertTokenizer",
    "BertTokenizerFast",
    "BigBirdTokenizer",
    "BigBirdTokenizerFast",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "BlenderbotTokenizer",
    "BlenderbotTokenizerFast",
    "ByT5Tokenizer",
    "ByT5TokenizerFast",
    "CamembertTokenizer",
    "CamembertTokenizerFast",
    "DebertaV2Tokenizer",
    "DebertaV2TokenizerFast",
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
    "LEDTokenizer",
    "LEDTokenizerFast",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "LongformerTokenizer",
    "LongformerTokenizerFast",
    "M2M100Tokenizer",
    "MBart50Tokenizer",
    "MBart50TokenizerFast",
    "MBartTokenizer",
    "MBartTokenizerFast",
    "MPNetTokenizer",
    "MPNetTokenizerFast",
    "MarianTokenizer",
    "MvpTokenizer",
    "MvpTokenizerFast",
    "NllbTokenizer",
    "NllbTokenizerFast",
    "OPTTokenizer",
    "OPTTokenizerFast",
    "PLBartTokenizer",
    "PegasusTokenizer",
    "PegasusTokenizerFast",
    "PreTrainedTokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
    "RobertaTokenizer",
    "RobertaTokenizerFast",
    "T5Tokenizer",
    "T5TokenizerFast",
    "Tokenizer",
    "TokenizerPair",
    "XGLMTokenizer",
    "XGLMTokenizerFast",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "needs_no_vocabulary",
]

__dir__ = public_dir(__all__)
