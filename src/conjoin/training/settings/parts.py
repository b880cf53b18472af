"""Parts of a model that may have a learning rate of their own."""

from conjoin.join import part_of


def group_of(name: str) -> str:
    """The learning-rate group of a parameter; shared ones go by the encoder's name."""
    part = part_of(name)
    return "cross_attention" if part == "decoder.cross_attention" else part.partition(".")[0]
