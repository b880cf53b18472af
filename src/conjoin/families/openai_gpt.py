"""GPT (Radford et al. 2018): GPT-2 with its norms behind the branches, and so none at the end."""

from dataclasses import replace
from functools import partial

from conjoin import spec
from conjoin.families import gpt2
from conjoin.families.builders import plain_heads, plain_mlp, postnorm_stack
from conjoin.families.record import Role, causal_lm


class OpenAIGPTConfig(gpt2.GPTFields):
    """Fields of a GPT config.json.

    Args:
        afn: The activation; "gelu" is the tanh form of it, which other families call "gelu_new".
        summary_type, summary_use_proj, summary_activation, summary_proj_to_labels, summary_first_dropout: As in GPT-2.
    """

    model_type = "openai-gpt"
    vocab_size: int = 40478
    n_positions: int = 512
    afn: str = "gelu"
    summary_type: str = "cls_index"
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: float = 0.1


def stack(config: OpenAIGPTConfig, role: Role) -> spec.StackSpec:
    """GPT's stack; both ways as an encoder."""
    mlp = plain_mlp(config, "afn", size=4 * config.n_embd)
    heads = plain_heads(config, bias=True, dropout=config.attn_pdrop)
    return postnorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.n_layer,
        mlp=replace(mlp, activation="gelu_tanh") if config.afn == "gelu" else mlp,
        norm=spec.LayerNorm(eps=config.layer_norm_epsilon),
        blocks={"dropout": config.resid_pdrop},
        embedding=gpt2.embedding(config),
    )


TABLES = {"tokens_embed": "embed.words", "positions_embed": "embed.positions"}
FAMILY = causal_lm(
    OpenAIGPTConfig,
    "OpenAIGPT",
    stack,
    partial(gpt2.body, tables=TABLES),
    decoder_architecture="OpenAIGPTLMHeadModel",
    prefixes=("transformer.",),
    known=("openai-community/openai-gpt",),
)
