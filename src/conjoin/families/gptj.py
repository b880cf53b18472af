"""GPT-J (Wang & Komatsuzaki 2021) and CodeGen (Nijkamp et al. 2022, arXiv:2203.13474).

Attention and MLP stand side by side behind one norm; the rotated dimensions of queries and keys are stored in pairs.
"""

from collections.abc import Callable
from typing import Any

from conjoin import spec
from conjoin.checkpoint import HeadFused, NameTable, Parts, Rule, Same
from conjoin.errors import ConfigError
from conjoin.families import gpt2
from conjoin.families.builders import head_size, lm_head, plain_heads, plain_mlp, prenorm_stack, word_embedding
from conjoin.families.names import biased_lm_head, layers, linears, paired_projections, rotary_pairs, weights
from conjoin.families.record import Family, Role, causal_lm

_SHARDS = 4
"""Parts of CodeGen's fused projections, each with a quarter of the heads: the cores of the TPU that trained it."""


class GPTJConfig(gpt2.GPT2Fields):
    """Fields of a GPT-J config.json; n_positions has no effect, because rotations have no table."""

    model_type = "gptj"
    vocab_size: int = 50400
    n_positions: int = 2048
    n_embd: int = 4096
    n_layer: int = 28
    n_head: int = 16
    rotary_dim: int = 64
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    attn_pdrop: float = 0.0
    tie_word_embeddings: bool = False


class CodeGenConfig(GPTJConfig):
    """Fields of a CodeGen config.json; n_ctx has no effect."""

    model_type = "codegen"
    n_ctx: int = 2048


def _rotary(config: GPTJConfig) -> spec.Rotary:
    size = head_size(config)
    if config.rotary_dim % 2 or not 2 <= config.rotary_dim <= size:
        raise ConfigError(
            f"{config.model_type}: rotary_dim = {config.rotary_dim}; expected an even number from 2 to {size}, the "
            "size of a head."
        )
    return spec.Rotary(base=10000.0, rotary_size=config.rotary_dim)


def stack(config: GPTJConfig, role: Role) -> spec.StackSpec:
    """GPT-J's stack; both ways as an encoder."""
    heads = plain_heads(config, bias=False, dropout=config.attn_pdrop)
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads, rotary=_rotary(config))] * config.n_layer,
        mlp=plain_mlp(config, "activation_function", size=config.mlp_size),
        norm=spec.LayerNorm(eps=config.layer_norm_epsilon),
        blocks={"parallel": True, "shared_norm": True, "dropout": config.resid_pdrop},
        embedding=word_embedding(config, padding_id=None, token_types="words", dropout=config.embd_pdrop),
        head=lm_head(config, bias="trained"),
    )


def codegen_stack(config: CodeGenConfig, role: Role) -> spec.StackSpec:
    """CodeGen's stack: GPT-J's, whose heads fall into shards."""
    built = stack(config, role)
    if config.n_head % _SHARDS:
        raise ConfigError(f"codegen: n_head = {config.n_head}; expected a multiple of {_SHARDS}.")
    return built


LAYER = {"ln_1": "self_attn_norm", "attn.out_proj": "self_attn.o", "mlp.fc_in": "mlp.up", "mlp.fc_out": "mlp.down"}


def _body(projections: tuple[Rule, ...]) -> NameTable:
    return NameTable(
        (*weights({"wte": "embed.words"}), *projections, *layers("h.{i}", LAYER), *linears({"ln_f": "final_norm"})),
        ignored=(r"h\.\d+\.attn\.((causal_|masked_)?(mask|bias)|embed_positions)",),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """GPTJModel's names."""
    return _body(paired_projections(stack, "h.{i}.attn"))


def codegen_body(stack: spec.StackSpec) -> NameTable:
    """CodeGenModel's names; a shard has queries, values and keys of its heads."""
    heads, pairs = stack.blocks[0].self_attn.attention, rotary_pairs(stack)
    shards = HeadFused(_SHARDS, heads.num_heads * heads.head_size // _SHARDS)
    names = tuple(f"blocks.{{i}}.self_attn.{letter}.weight" for letter in "qvk")
    return _body((Rule("h.{i}.attn.qkv_proj.weight", names, Parts(shards, (pairs, Same(), pairs))),))


def _family(
    config: type[GPTJConfig],
    name: str,
    build: Callable[[Any, Role], spec.StackSpec],
    body: Callable[[spec.StackSpec], NameTable],
    *known: str,
) -> Family:
    return causal_lm(config, name, build, body, head=biased_lm_head, prefixes=("transformer.",), known=known)


FAMILIES = (
    _family(GPTJConfig, "GPTJ", stack, body, "EleutherAI/gpt-j-6b"),
    _family(CodeGenConfig, "CodeGen", codegen_stack, codegen_body, "Salesforce/codegen-350M-mono"),
)
