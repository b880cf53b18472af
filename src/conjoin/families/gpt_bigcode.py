"""SantaCoder and StarCoder (Li et al. 2023, arXiv:2305.06161): GPT-2 whose heads read one head of keys and values."""

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import gpt2
from conjoin.families.builders import attention, head_size, plain_mlp, prenorm_stack
from conjoin.families.names import grouped_qkv, layers, linears, weights
from conjoin.families.record import Role, causal_lm


class GPTBigCodeConfig(gpt2.GPT2Fields):
    """Fields of a GPTBigCode config.json.

    Args:
        multi_query: One head of keys and values; else as many as there are of queries.
        attention_softmax_in_fp32, scale_attention_softmax_in_fp32: Scores in float32, as they always are here.
    """

    model_type = "gpt_bigcode"
    activation_function: str = "gelu_pytorch_tanh"
    scale_attn_weights: bool = True
    attention_softmax_in_fp32: bool = True
    scale_attention_softmax_in_fp32: bool = True
    multi_query: bool = True


def stack(config: GPTBigCodeConfig, role: Role) -> spec.StackSpec:
    """GPTBigCode's stack; both ways as an encoder."""
    size, count = head_size(config), config.n_head
    heads = attention(
        heads=count,
        kv_heads=1 if config.multi_query else count,
        size=size,
        bias=True,
        dropout=config.attn_pdrop,
        scale=size**-0.5 if config.scale_attn_weights else 1.0,
    )
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.n_layer,
        mlp=plain_mlp(config, "activation_function", size=config.mlp_size),
        norm=spec.LayerNorm(eps=config.layer_norm_epsilon),
        blocks={"dropout": config.resid_pdrop},
        embedding=gpt2.embedding(config),
    )


LAYER = {**gpt2.NORMS, "attn.c_proj": "self_attn.o", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}


def body(stack: spec.StackSpec) -> NameTable:
    """GPTBigCodeModel's names."""
    return NameTable(
        (
            *weights(gpt2.TABLES),
            *grouped_qkv(stack, "h.{i}.attn.c_attn"),
            *layers("h.{i}", LAYER),
            *linears({"ln_f": "final_norm"}),
        )
    )


FAMILY = causal_lm(
    GPTBigCodeConfig,
    "GPTBigCode",
    stack,
    body,
    prefixes=("transformer.",),
    known=("bigcode/gpt_bigcode-santacoder", "bigcode/starcoderbase-1b", "bigcode/tiny_starcoder_py"),
)
