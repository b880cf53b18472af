"""Every checkpoint family: its model_type, the module of `conjoin.families` that reads it, and its config class.

A new family is one line here: the registry, the public names and what type checkers see of them follow from it. The
file imports nothing, because `import conjoin` reads it.
"""

MODULES = {
    "albert": "albert.AlbertConfig",
    "bart": "bart.BartConfig",
    "bert": "bert.BertConfig",
    "camembert": "roberta.CamembertConfig",
    "distilbert": "distilbert.DistilBertConfig",
    "electra": "electra.ElectraConfig",
    "exaone4": "exaone4.Exaone4Config",
    "gemma": "gemma.GemmaConfig",
    "gemma2": "gemma.Gemma2Config",
    "gemma3_text": "gemma.Gemma3TextConfig",
    "gpt2": "gpt2.GPT2Config",
    "gpt_neo": "gpt_neo.GPTNeoConfig",
    "gpt_neox": "gpt_neox.GPTNeoXConfig",
    "granite": "granite.GraniteConfig",
    "llama": "llama.LlamaConfig",
    "mbart": "bart.MBartConfig",
    "mistral": "mistral.MistralConfig",
    "modernbert": "modernbert.ModernBertConfig",
    "modernbert-decoder": "modernbert.ModernBertDecoderConfig",
    "mpnet": "mpnet.MPNetConfig",
    "mt5": "t5.MT5Config",
    "olmo2": "olmo2.Olmo2Config",
    "olmo3": "olmo3.Olmo3Config",
    "opt": "opt.OPTConfig",
    "phi3": "phi3.Phi3Config",
    "qwen2": "qwen2.Qwen2Config",
    "qwen3": "qwen3.Qwen3Config",
    "roberta": "roberta.RobertaConfig",
    "smollm3": "smollm3.SmolLM3Config",
    "stablelm": "stablelm.StableLmConfig",
    "starcoder2": "starcoder2.Starcoder2Config",
    "t5": "t5.T5Config",
    "t5gemma": "t5gemma.T5GemmaConfig",
    "t5gemma2": "t5gemma2.T5Gemma2Config",
    "xlm-roberta": "roberta.XLMRobertaConfig",
}
"""model_type -> module and config class, sorted."""
