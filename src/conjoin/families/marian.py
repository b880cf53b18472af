"""Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344), the OPUS-MT models: BART's halves with fixed positions."""

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families import bart
from conjoin.families.record import Role


class MarianConfig(bart.BartConfig):
    """Fields of a Marian config.json. Targets start with the padding id, whose row in the word table is zero.

    Args:
        decoder_vocab_size: Words of the decoder where it has a vocabulary of its own; else vocab_size.
        share_encoder_decoder_embeddings: Both halves read one word table; False in models of two vocabularies.
    """

    model_type = "marian"
    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    pad_token_id: int | None = 58100
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 0
    decoder_start_token_id: int | None = 58100


def stack(config: MarianConfig, role: Role) -> spec.StackSpec:
    """Either half: norms after every branch, none behind the embedding.

    Raises:
        ConfigError: one word table of two sizes.
    """
    encoder, decoder = (FAMILY.vocab_size_of(config, each) for each in ("encoder", "decoder"))
    if config.share_encoder_decoder_embeddings and encoder != decoder:
        raise ConfigError(
            f"marian: vocab_size = {encoder} and decoder_vocab_size = {decoder}, but the halves share one word table.",
            hint="share_encoder_decoder_embeddings = false, if they have a table each.",
        )
    return bart.half(
        config,
        role,
        prenorm=False,
        position=spec.Sinusoidal(max_positions=config.max_position_embeddings, layout="halves"),
        norm=None,
        vocab_size=encoder if role == "encoder" else decoder,
    )


FAMILY = bart.seq2seq(
    MarianConfig,
    "Marian",
    stack,
    bart.whole("MarianMTModel", sharing="share_encoder_decoder_embeddings", computed=("embed.positions.weight",)),
    vocab_size={"encoder": "vocab_size", "decoder": "decoder_vocab_size"},
    known=("Helsinki-NLP/opus-mt-en-de", "Helsinki-NLP/opus-mt-fr-en", "Helsinki-NLP/opus-mt-tc-big-en-pt"),
)
