"""Every checkpoint family: its model_type, the module of `conjoin.families` that reads it, and its config class.

A new family is one line here: the registry, the public names and what type checkers see of them follow from it. The
file imports nothing, because `import conjoin` reads it.
"""

MODULES = {
    "albert": "albert.AlbertConfig",
    "bart": "bart.BartConfig",
    "bert": "bert.BertConfig",
    "bert-generation": "bert_generation.BertGenerationConfig",
    "big_bird": "big_bird.BigBirdConfig",
    "biogpt": "biogpt.BioGptConfig",
    "blenderbot": "blenderbot.BlenderbotConfig",
    "blenderbot-small": "blenderbot.BlenderbotSmallConfig",
    "bloom": "bloom.BloomConfig",
    "camembert": "roberta.CamembertConfig",
    "codegen": "gptj.CodeGenConfig",
    "cohere": "cohere.CohereConfig",
    "deberta-v2": "deberta.DebertaV2Config",
    "distilbert": "distilbert.DistilBertConfig",
    "electra": "electra.ElectraConfig",
    "ernie": "ernie.ErnieConfig",
    "eurobert": "eurobert.EuroBertConfig",
    "exaone4": "exaone4.Exaone4Config",
    "falcon": "falcon.FalconConfig",
    "gemma": "gemma.GemmaConfig",
    "gemma2": "gemma.Gemma2Config",
    "gemma3_text": "gemma.Gemma3TextConfig",
    "glm": "glm.GlmConfig",
    "glm4": "glm.Glm4Config",
    "gpt2": "gpt2.GPT2Config",
    "gpt_neo": "gpt_neo.GPTNeoConfig",
    "gpt_neox": "gpt_neox.GPTNeoXConfig",
    "gptj": "gptj.GPTJConfig",
    "granite": "granite.GraniteConfig",
    "gte": "gte.GteConfig",
    "jina_embeddings_v3": "jina_embeddings.JinaEmbeddingsV3Config",
    "llama": "llama.LlamaConfig",
    "m2m_100": "m2m_100.M2M100Config",
    "marian": "marian.MarianConfig",
    "mbart": "bart.MBartConfig",
    "megatron-bert": "bert_prenorm.MegatronBertConfig",
    "mistral": "mistral.MistralConfig",
    "modernbert": "modernbert.ModernBertConfig",
    "modernbert-decoder": "modernbert.ModernBertDecoderConfig",
    "mpnet": "mpnet.MPNetConfig",
    "mt5": "t5.MT5Config",
    "mvp": "plbart.MvpConfig",
    "nomic_bert": "nomic_bert.NomicBertConfig",
    "olmo2": "olmo2.Olmo2Config",
    "olmo3": "olmo3.Olmo3Config",
    "opt": "opt.OPTConfig",
    "pegasus": "pegasus.PegasusConfig",
    "phi": "phi.PhiConfig",
    "phi3": "phi3.Phi3Config",
    "plbart": "plbart.PLBartConfig",
    "qwen2": "qwen2.Qwen2Config",
    "qwen3": "qwen3.Qwen3Config",
    "roberta": "roberta.RobertaConfig",
    "roberta-prelayernorm": "bert_prenorm.RobertaPreLayerNormConfig",
    "smollm3": "smollm3.SmolLM3Config",
    "stablelm": "stablelm.StableLmConfig",
    "starcoder2": "starcoder2.Starcoder2Config",
    "t5": "t5.T5Config",
    "t5gemma": "t5gemma.T5GemmaConfig",
    "t5gemma2": "t5gemma2.T5Gemma2Config",
    "umt5": "t5.UMT5Config",
    "xglm": "xglm.XGLMConfig",
    "xlm-roberta": "roberta.XLMRobertaConfig",
    "xlm-roberta-xl": "bert_prenorm.XLMRobertaXLConfig",
}
"""model_type -> module and config class, sorted."""

ALIASES = {"new": "gte"}
"""Other names that config.json files have for a model_type: those of code beside the models on the hub."""

ROTARY = {"xlm-roberta": "jina_embeddings_v3"}
"""model_type -> the one that is meant where config.json has position_embedding_type = "rotary"."""
