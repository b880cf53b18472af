"""Command R and Aya (Cohere 2024): one norm before attention and MLP, which stand side by side; scaled logits."""

from conjoin import spec
from conjoin.checkpoint import NameTable, Parts, Reshaped, Rule
from conjoin.families import llama
from conjoin.families.builders import lm_head
from conjoin.families.names import paired_projections, rotary_pairs
from conjoin.families.record import Role
from conjoin.families.rope import older_words


class CohereFields(llama.DecoderFields):
    """Fields of a Cohere config.json of any generation."""

    vocab_size: int = 256000
    hidden_size: int = 8192
    intermediate_size: int = 22528
    logit_scale: float = 0.0625
    num_hidden_layers: int = 40
    num_attention_heads: int = 64
    hidden_act: str = "silu"
    max_position_embeddings: int = 8192
    layer_norm_eps: float = 1e-5
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 5
    eos_token_id: int | list[int] | None = 255001


class CohereConfig(CohereFields):
    """Fields of a Cohere config.json of the first generation."""

    model_type = "cohere"
    use_qk_norm: bool = False


def layer_norm(config: CohereFields) -> spec.LayerNorm:
    """Cohere's norm."""
    return spec.LayerNorm(eps=config.layer_norm_eps, bias=False)


def stack_of(config: CohereFields, role: Role, self_attn: list[spec.SelfAttention]) -> spec.StackSpec:
    """The stack of a Cohere, of the self-attention of every layer."""
    return llama.decoder_stack(
        config,
        role,
        self_attn,
        mlp=llama.gated_mlp(config),
        norm=layer_norm(config),
        blocks={"parallel": True, "shared_norm": True},
        head=lm_head(config, scale=config.logit_scale),
    )


def stack(config: CohereConfig, role: Role) -> spec.StackSpec:
    """Cohere's stack; both ways as an encoder."""
    qk_norm = spec.QKNorm(norm=layer_norm(config), over="each_head") if config.use_qk_norm else None
    heads = llama.grouped_heads(config, bias=config.attention_bias, qk_norm=qk_norm)
    return stack_of(config, role, llama.rotary_layers(config, heads, older=older_words(config, fallback=5e5)))


def _head_norms(stack: spec.StackSpec) -> tuple[Rule, ...]:
    """Norms of queries and keys, stored as a row for every head, in the order of the head's dimensions."""
    heads = stack.blocks[0].self_attn.attention
    return tuple(
        Rule(
            f"layers.{{i}}.self_attn.{name}.weight",
            f"blocks.{{i}}.self_attn.{name}.weight",
            Parts(Reshaped((count, heads.head_size), (-1,)), (rotary_pairs(stack),)),
        )
        for name, count in (("q_norm", heads.num_heads), ("k_norm", heads.num_kv_heads))
    )


def body(stack: spec.StackSpec) -> NameTable:
    """CohereModel's names: Llama's, with one norm a layer and rotated dimensions in pairs."""
    own = (*paired_projections(stack, "layers.{i}.self_attn"), *_head_norms(stack))
    return NameTable(own) + llama.body(stack, norms={"input_layernorm": "self_attn_norm"})


FAMILY = llama.family(
    CohereConfig, "Cohere", stack, body, known=("CohereLabs/aya-23-8B", "CohereLabs/c4ai-command-r-v01")
)
