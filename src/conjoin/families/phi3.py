"""Phi-3 and Phi-4-mini (Abdin et al. 2024, arXiv:2404.14219): Llama with fused matrices; long contexts by LongRoPE."""

from conjoin import spec
from conjoin.checkpoint import Fused, NameTable, Rule
from conjoin.families import llama
from conjoin.families.builders import word_embedding
from conjoin.families.record import Role
from conjoin.families.rope import older_words


class Phi3Config(llama.LlamaFields):
    """Fields of a Phi-3 config.json.

    Args:
        original_max_position_embeddings: Positions before LongRoPE stretched them.
        longrope_length: Longest sequence that the model shall read. Above `original_max_position_embeddings`, the
            default, rotation is by LongRoPE's long factors, else by its short ones, and longer sequences are refused.
            transformers chooses anew for each batch, by its longest row, which a cache of keys does not survive.
    """

    model_type = "phi3"
    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    longrope_length: int | None = None
    partial_rotary_factor: float = 1.0
    rms_norm_eps: float = 1e-5
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    sliding_window: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 32000
    pad_token_id: int | None = 32000


def stack(config: Phi3Config, role: Role) -> spec.StackSpec:
    """Phi-3's stack."""
    older = {"partial_rotary_factor": config.partial_rotary_factor, **older_words(config)}
    if (older.get("rope_type") or older.get("type")) in ("su", "yarn"):  # what the first files call it
        older["rope_type"] = "longrope"
    heads = llama.grouped_heads(config, bias=False)
    return llama.decoder_stack(
        config,
        role,
        llama.rotary_layers(config, heads, lambda layer: config.sliding_window, older=older),
        mlp=llama.gated_mlp(config),
        blocks={"dropout": config.resid_pdrop},
        embedding=word_embedding(config, dropout=config.embd_pdrop),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """Phi3Model's names: one matrix for queries, keys and values, one for gate and up."""
    heads, inner = stack.blocks[0].self_attn.attention, stack.blocks[0].mlp.intermediate_size
    sizes = tuple(n * heads.head_size for n in (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads))
    ours = "blocks.{i}"
    fused = (
        ("self_attn.qkv_proj", tuple(f"self_attn.{letter}" for letter in "qkv"), sizes),
        ("mlp.gate_up_proj", ("mlp.gate", "mlp.up"), (inner, inner)),
    )
    rules = tuple(
        Rule(f"layers.{{i}}.{theirs}.weight", tuple(f"{ours}.{name}.weight" for name in names), Fused(parts))
        for theirs, names, parts in fused
    )
    return NameTable(rules) + llama.body(stack, mlp={"mlp.down_proj": "mlp.down"})


FAMILY = llama.family(
    Phi3Config,
    "Phi3",
    stack,
    body,
    known=(
        "microsoft/Phi-3-mini-4k-instruct",
        "microsoft/Phi-3-mini-128k-instruct",
        "microsoft/Phi-4-mini-instruct",
        "microsoft/phi-4",
    ),
)
