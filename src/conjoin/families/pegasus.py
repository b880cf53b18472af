"""Pegasus (Zhang et al. 2019, arXiv:1912.08777): mBART's halves with fixed positions and no norm of the embedding."""

from conjoin import spec
from conjoin.families import bart
from conjoin.families.record import Role


class PegasusConfig(bart.BartConfig):
    """Fields of a Pegasus config.json. Targets start with the padding id."""

    model_type = "pegasus"
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0


def stack(config: PegasusConfig, role: Role) -> spec.StackSpec:
    """Either half: norms before every branch and at the end."""
    position = spec.Sinusoidal(max_positions=config.max_position_embeddings, layout="halves")
    return bart.half(config, role, prenorm=True, position=position, norm=None)


FAMILY = bart.seq2seq(
    PegasusConfig,
    "Pegasus",
    stack,
    bart.whole("PegasusForConditionalGeneration"),
    known=("google/pegasus-xsum", "google/pegasus-cnn_dailymail", "google/pegasus-large"),
)
