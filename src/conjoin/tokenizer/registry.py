"""Find the family of a folder's tokenizer files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conjoin.errors import TokenizerError
from conjoin.tokenizer import byt5, families, m2m100, marian, mbart, metaspace, nllb, plbart, unigram, wordbpe
from conjoin.tokenizer.formats.find import MODEL_CONFIG, OWN_CLASS, TOKENIZER_CONFIG, TOKENIZER_JSON, Files
from conjoin.tokenizer.formats.read import model_kind, read_json
from conjoin.tokenizer.pipeline import GENERIC_CLASS, fitting
from conjoin.tokenizer.tokenizer import Tokenizer

CLASSES: dict[str, type[Tokenizer]] = {
    name: value
    for module in (families, unigram, metaspace, mbart, nllb, m2m100, marian, plbart, wordbpe, byt5)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Tokenizer) and value.saved_class != GENERIC_CLASS
}
"""Every class name that a tokenizer_config.json may give, `...Fast` names included."""

_GENERIC = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")

# The tokenizer class of each model_type, as transformers 5.23 maps them; a type not listed follows its folder's files.
_MODEL_TYPES = {
    "BertTokenizer": "bert distilbert electra ernie layoutlm megatron-bert nezha nomic_bert qdqbert visual_bert",
    "RobertaTokenizer": "bart data2vec-text ibert led lilt longformer mega mra mvp roberta roberta-prelayernorm",
    "XLMRobertaTokenizer": "gte jina_embeddings_v3 trocr xlm-roberta xmod",
    "CamembertTokenizer": "camembert",
    "AlbertTokenizer": "albert yoso",
    "MPNetTokenizer": "mpnet",
    "DebertaTokenizer": "deberta",
    "DebertaV2Tokenizer": "deberta-v2",
    "BigBirdTokenizer": "big_bird",
    "BertGenerationTokenizer": "bert-generation",
    "GPT2Tokenizer": "codegen gpt2 gpt_neo gptj jais2 opt phi starcoder2",
    "OpenAIGPTTokenizer": "openai-gpt",
    "GPTNeoXTokenizer": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm",
    "Qwen2Tokenizer": "qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next",
    "GemmaTokenizer": "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma t5gemma t5gemma2",
    "XGLMTokenizer": "xglm",
    "BioGptTokenizer": "biogpt",
    "MBartTokenizer": "mbart",
    "MBart50Tokenizer": "mbart50",
    "NllbTokenizer": "nllb nllb-moe",
    "M2M100Tokenizer": "m2m_100",
    "MarianTokenizer": "marian",
    "PegasusTokenizer": "pegasus",
    "PLBartTokenizer": "plbart",
    "BlenderbotTokenizer": "blenderbot",
    "BlenderbotSmallTokenizer": "blenderbot-small",
    "T5Tokenizer": "mt5 switch_transformers t5",
    "PreTrainedTokenizerFast": (
        "bigbird_pegasus cohere2 ernie4_5 glm glm4 gpt_bigcode granite granitemoe ministral mistral mistral3 mixtral "
        "modernbert modernbert-decoder nystromformer olmo2 olmo3 pegasus_x persimmon phi3 stablelm umt5 xlm-roberta-xl"
    ),
}
CLASS_OF_TYPE = {model_type: name for name, types in _MODEL_TYPES.items() for model_type in types.split()}

# transformers' MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS, as far as CLASS_OF_TYPE goes: the type wins over the file.
_TYPE_WINS = {"ernie4_5", "modernbert", "modernbert-decoder", "phi3", "qwen2"}


def class_for(files: Files) -> type[Tokenizer]:
    """Return the family of a folder; plain `Tokenizer` if its tokenizer.json is used as it is.

    Raises:
        TokenizerError: nothing names the family, and there is no tokenizer.json to take as it is.
    """
    name = _class_name(files)
    path = files.get(TOKENIZER_JSON)
    known = None if name is None else CLASSES.get(name)
    if path is None:
        if known is None:
            raise _unknown(files, name)
        return known
    if known is not None and known.reads_raw and set(known.vocabulary_files) <= set(files.names()):
        return known
    return Tokenizer if known is None or misfit(known, read_json(path)) else known


def _class_name(files: Files) -> str | None:
    path = files.get(TOKENIZER_CONFIG)
    config_path = files.get(MODEL_CONFIG)
    model = read_json(config_path) if config_path else {}
    model_type = str(model.get("model_type"))
    config = read_json(path) if path else {}
    if config.get(OWN_CLASS):
        return str(config[OWN_CLASS])
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    if named is None:
        if model_type in ("encoder-decoder", "vision-encoder-decoder") and isinstance(model.get("encoder"), dict):
            model_type = str(model["encoder"].get("model_type"))
        return CLASS_OF_TYPE.get(model_type)
    name = str(named).removesuffix("Fast")
    of_type = CLASS_OF_TYPE.get(model_type)
    if of_type in _GENERIC and name != of_type.removesuffix("Fast"):
        return None
    return of_type if model_type in _TYPE_WINS else name


def misfit(cls: type[Tokenizer], document: Mapping[str, Any]) -> bool:
    """True if a tokenizer.json is not of this family, whose special tokens then do not apply to it."""
    if cls.kind != model_kind(document, TOKENIZER_JSON):
        return True
    steps = str(document.get("pre_tokenizer")) + str(document.get("decoder"))
    return "tokenizer.model" in cls.vocabulary_files and "ByteLevel" in steps  # Llama 3 folders name LlamaTokenizer


def needs_no_vocabulary(folder: Path) -> bool:
    """True if a folder names a family that needs no vocabulary file, such as ByT5, whose vocabulary is the bytes."""
    known = CLASSES.get(str(_class_name(Files(folder))))
    return known is not None and not known.vocabulary_files


def _unknown(files: Files, name: str | None) -> TokenizerError:
    fits = fitting(files)
    reason = (
        "nothing says which tokenizer this is" if name is None else f"tokenizer_class {name!r} is not known to conjoin"
    )
    return TokenizerError(
        f"{files.folder}: no {TOKENIZER_JSON}, and {reason}. The files fit: {', '.join(fits) or 'no family'}.",
        hint=f"{fits[0]}.from_pretrained({str(files.folder)!r}), or write the class into tokenizer_config.json."
        if fits
        else None,
    )
