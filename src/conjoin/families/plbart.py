"""PLBart (Ahmad et al. 2021, arXiv:2103.06333) and MVP (Tang et al. 2022, arXiv:2206.12131): BART under other names."""

from conjoin import spec
from conjoin.families import bart
from conjoin.families.builders import require
from conjoin.families.record import Role


class PLBartConfig(bart.BartConfig):
    """Fields of a PLBart config.json. A target starts with its language's code, so there is no start id by default."""

    model_type = "plbart"
    vocab_size: int = 50005
    d_model: int = 768
    encoder_layers: int = 6
    encoder_ffn_dim: int = 3072
    encoder_attention_heads: int = 12
    decoder_layers: int = 6
    decoder_ffn_dim: int = 3072
    decoder_attention_heads: int = 12
    attention_dropout: float = 0.1
    scale_embedding: bool = True
    decoder_start_token_id: int | None = None


class MvpConfig(bart.BartConfig):
    """Fields of an MVP config.json.

    Args:
        use_prompt: Attention reads learned prompts, too; conjoin has no such attention.
    """

    model_type = "mvp"
    vocab_size: int = 50267
    use_prompt: bool = False


def mvp_stack(config: MvpConfig, role: Role) -> spec.StackSpec:
    """BART's half.

    Raises:
        ConfigError: the checkpoint has prompts.
    """
    require(config, "use_prompt", False, hint="RUCAIBox/mvp and its relatives without prompts can be used.")
    return bart.bart_stack(config, role)


FAMILIES = (
    bart.seq2seq(
        PLBartConfig,
        "PLBart",
        bart.bart_stack,
        bart.whole("PLBartForConditionalGeneration", start="last_label"),
        known=("uclanlp/plbart-base",),
    ),
    bart.seq2seq(
        MvpConfig,
        "Mvp",
        mvp_stack,
        bart.whole("MvpForConditionalGeneration"),
        generation={},
        known=("RUCAIBox/mvp",),
    ),
)
