"""What T5Gemma and T5Gemma 2 have in common: a config around two, T5's dropout in a Gemma's stack, names."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import HEAD, Family, Role, Whole


class TwoGemmasConfig(PretrainedConfig):
    """Fields beside the configs of the halves, whose dropout rates they set.

    Special ids are the decoder's where the config names none; a target starts with its bos.
    """

    is_encoder_decoder: bool = True
    dropout_rate: float = 0.0
    classifier_dropout_rate: float = 0.0
    attention_dropout: float = 0.0

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**values)
        decoder: PretrainedConfig = vars(self)["decoder"]
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(decoder, name))
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = decoder.bos_token_id

    @property
    def of_halves(self) -> dict[str, Any]:
        """Values that the halves have from here, whatever their own configs say."""
        return {"attention_dropout": self.attention_dropout, "tie_word_embeddings": self.tie_word_embeddings}


def family(
    config: type[TwoGemmasConfig],
    name: str,
    build: Callable[[Any, Role], spec.StackSpec],
    body: Callable[[spec.StackSpec], NameTable],
    *,
    encoder: str,
    known: tuple[str, ...],
    **layout: Any,
) -> Family:
    """Return the family; `encoder` is its encoder's class in transformers, `layout` are fields of its `Whole`."""
    return Family(
        config=config,
        encoder="half",
        decoder="half",
        encoder_architecture=encoder,
        build=build,
        body=body,
        head=lambda stack: LM_HEAD,
        prefixes=("model.",),
        encoder_prefix="encoder.",
        decoder_prefix="model.decoder.",
        whole=Whole(
            architecture=f"{name}ForConditionalGeneration",
            encoder="encoder.",
            decoder="decoder.",
            prefix="model.",
            head=LM_HEAD,
            **layout,
        ),
        known=known,
    )


def with_dropout(stack: spec.StackSpec, rate: float) -> spec.StackSpec:
    """Add T5's dropout to a Gemma: behind the embedding, every branch, the gated product and the final norm."""
    return replace(
        stack,
        embedding=replace(stack.embedding, dropout=rate),
        blocks=tuple(
            replace(block, dropout=rate, mlp=replace(block.mlp, activation_dropout=rate)) for block in stack.blocks
        ),
        final_dropout=rate,
    )


NORMS = {
    f"{when}_{theirs}_layernorm": f"{ours}{suffix}"
    for theirs, ours in {"self_attn": "self_attn", "cross_attn": "cross_attn", "feedforward": "mlp"}.items()
    for when, suffix in {"pre": "_norm", "post": "_post_norm"}.items()
}
LM_HEAD = NameTable((Rule("lm_head.out_proj.weight", HEAD),))
