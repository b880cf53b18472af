"""M2M100 (Fan et al. 2020, arXiv:2010.11125), NLLB (NLLB Team 2022, arXiv:2207.04672): mBART with fixed positions."""

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families import bart
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import LM_HEAD, Role


class M2M100Config(bart.BartConfig):
    """Fields of an M2M100 config.json.

    Args:
        max_position_embeddings: Length of the longest sequence. No file holds the table, so a larger number gives a
            longer one; transformers computes any length without asking, of which the models know nothing.
    """

    model_type = "m2m_100"
    vocab_size: int = 128112
    encoder_layerdrop: float = 0.05
    decoder_layerdrop: float = 0.05
    activation_function: str = "relu"
    attention_dropout: float = 0.1
    scale_embedding: bool = True


def padding(config: PretrainedConfig) -> int:
    """Return the padding id, whose row of the table of positions is zero.

    Raises:
        ConfigError: there is none.
    """
    if config.pad_token_id is None:
        raise ConfigError(
            f"{config.model_type}: pad_token_id is not set, but its positions depend on it.", hint="usually 1."
        )
    return config.pad_token_id


def stack(config: M2M100Config, role: Role) -> spec.StackSpec:
    """Either half: norms before every branch and at the end; positions count the ids that are not padding."""
    pad = padding(config)
    position = spec.Sinusoidal(
        max_positions=config.max_position_embeddings,
        layout="halves",
        style="tensor2tensor",
        counts=spec.SkippedPads(padding_position=pad, pads="ids", padding_id=pad),
        zero_row=pad,
    )
    return bart.half(config, role, prenorm=True, position=position, norm=None)


FAMILY = bart.seq2seq(
    M2M100Config,
    "M2M100",
    stack,
    bart.whole("M2M100ForConditionalGeneration", head=LM_HEAD, fixed_bias=False),
    body=bart.body_without_positions,
    decoder_architecture=None,
    generation={},
    known=("facebook/m2m100_418M", "facebook/nllb-200-distilled-600M"),
)
