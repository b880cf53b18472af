"""EuroBERT (Boizard et al. 2025, arXiv:2503.05500): Llama's blocks, trained to read both ways."""

from dataclasses import replace

from conjoin import spec
from conjoin.families import llama
from conjoin.families.names import biased_lm_head
from conjoin.families.record import Role


class EuroBertConfig(llama.LlamaConfig):
    """Fields of a EuroBERT config.json.

    Args:
        mask_token_id: For masked language modelling, which conjoin does not do.
        classifier_pooling: Of classification heads, which conjoin does not have.
    """

    model_type = "eurobert"
    vocab_size: int = 128256
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    bos_token_id: int | None = 128000
    eos_token_id: int | list[int] | None = 128001
    pad_token_id: int | None = 128001
    mask_token_id: int = 128002
    classifier_pooling: str = "late"


def stack(config: EuroBertConfig, role: Role) -> spec.StackSpec:
    """EuroBERT's stack; as a decoder it has the masked language model's head."""
    plain = llama.stack(config, role)
    head = plain.head and replace(plain.head, bias="trained" if config.mlp_bias else None)
    return replace(plain, head=head)


FAMILY = replace(
    llama.family(EuroBertConfig, "EuroBert", stack, known=("EuroBERT/EuroBERT-210m",)),
    encoder="native",
    decoder_architecture=None,
    head=biased_lm_head,
)
