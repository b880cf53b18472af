"""GPT-2 (Radford et al. 2019): pre-norm, learned positions, matrices stored (in, out)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from conjoin import spec
from conjoin.checkpoint import Fused, NameTable, Rule, Transposed
from conjoin.families.builders import plain_heads, plain_mlp, prenorm_stack, word_embedding
from conjoin.families.config import PretrainedConfig
from conjoin.families.names import layers, linears, weights
from conjoin.families.record import Family, Role


class GPTFields(PretrainedConfig):
    """Fields of a GPT-2 config.json that GPT's have too."""

    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02


class GPT2Fields(GPTFields):
    """Fields of a GPT-2 config.json that GPT-J's have too."""

    n_inner: int | None = None
    activation_function: str = "gelu_new"
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256

    @property
    def mlp_size(self) -> int:
        """Inner width of the MLP."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner


class GPT2Config(GPT2Fields):
    """Fields of a GPT-2 config.json.

    Args:
        reorder_and_upcast_attn: Scores in float32, as they always are here.
        summary_type, summary_use_proj, summary_activation, summary_proj_to_labels, summary_first_dropout: For multiple
            choice heads, which conjoin has none of.
    """

    model_type = "gpt2"
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    summary_type: str = "cls_index"
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: float = 0.1


def _heads(config: GPT2Config, layer: int) -> spec.Attention:
    """Those of block number `layer`; its scores may be divided by layer + 1."""
    heads = plain_heads(config, bias=True, dropout=config.attn_pdrop)
    scale = heads.scale if config.scale_attn_weights else 1.0
    return replace(heads, scale=scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale)


def embedding(config: GPTFields) -> spec.Embedding:
    """Words and learned positions; token types are rows of the word table."""
    return word_embedding(
        config,
        position=spec.Learned(max_positions=config.n_positions),
        padding_id=None,
        token_types="words",
        dropout=config.embd_pdrop,
    )


def stack(config: GPT2Config, role: Role) -> spec.StackSpec:
    """GPT-2's stack."""
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=_heads(config, layer)) for layer in range(config.n_layer)],
        mlp=plain_mlp(config, "activation_function", size=config.mlp_size),
        norm=spec.LayerNorm(eps=config.layer_norm_epsilon),
        own_cross=True,
        blocks={"dropout": config.resid_pdrop},
        embedding=embedding(config),
    )


def _fused(theirs: str, ours: tuple[str, ...]) -> tuple[Rule, ...]:
    """c_attn holds several projections side by side, stored (in, out)."""
    return (
        Rule(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours), Fused(transposed=True)),
        Rule(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours), Fused()),
    )


def _conv1d(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{theirs}.weight", f"{ours}.weight", Transposed()), Rule(f"{theirs}.bias", f"{ours}.bias"))


TABLES = {"wte": "embed.words", "wpe": "embed.positions"}
NORMS = {"ln_1": "self_attn_norm", "ln_cross_attn": "cross_attn_norm", "ln_2": "mlp_norm"}


def body(stack: spec.StackSpec, tables: Mapping[str, str] = TABLES) -> NameTable:
    """GPT2Model's names; GPT has other tables."""
    theirs, ours = "h.{i}", "blocks.{i}"
    attn, cross = f"{ours}.self_attn", f"{ours}.cross_attn"
    return NameTable(
        (
            *weights(tables),
            *_fused(f"{theirs}.attn.c_attn", (f"{attn}.q", f"{attn}.k", f"{attn}.v")),
            *_conv1d(f"{theirs}.attn.c_proj", f"{attn}.o"),
            *_conv1d(f"{theirs}.crossattention.q_attn", f"{cross}.q"),
            *_fused(f"{theirs}.crossattention.c_attn", (f"{cross}.k", f"{cross}.v")),
            *_conv1d(f"{theirs}.crossattention.c_proj", f"{cross}.o"),
            *_conv1d(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up"),
            *_conv1d(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down"),
            *layers(theirs, NORMS),
            *linears({"ln_f": "final_norm"}),
        ),
        ignored=(r"h\.\d+\.(attn|crossattention)\.(masked_)?bias",),
    )


FAMILY = Family(
    config=GPT2Config,
    encoder="bidirectional",
    decoder="own",
    encoder_architecture="GPT2Model",
    decoder_architecture="GPT2LMHeadModel",
    build=stack,
    body=body,
    prefixes=("transformer.",),
    known=("openai-community/gpt2", "distilbert/distilgpt2"),
)
