"""A source in the words of the target's vocabulary, so that drafts can be copied from it."""

from typing import TYPE_CHECKING

from conjoin.errors import ConjoinError, GenerationError
from conjoin.tokenizer import TokenizerPair
from conjoin.torch.decoding.reader import Sources

if TYPE_CHECKING:
    from conjoin.torch.model import EncoderDecoderModel


def copy_source(model: "EncoderDecoderModel", source: Sources) -> list[int]:
    """One source's real ids; written again with the target's tokenizer where the two vocabularies differ.

    Raises:
        GenerationError: the vocabularies differ and the model has no tokenizers to translate with.
    """
    if source.ids is None:
        return []
    ids = source.ids[0] if source.mask is None else source.ids[0][source.mask[0]]
    try:
        tokenizers = model.tokenizer
    except ConjoinError:
        tokenizers = None
    if isinstance(tokenizers, TokenizerPair):
        if tokenizers.source is tokenizers.target or tokenizers.source.get_vocab() == tokenizers.target.get_vocab():
            return ids.tolist()
        text = tokenizers.source.decode(ids, skip_special_tokens=True)
        return tokenizers.target(text, add_special_tokens=False)["input_ids"]
    if model.encoder.spec.vocab_size != model.decoder.spec.vocab_size:
        raise GenerationError(
            f"copy_speculation copies source words into the target, but the vocabularies differ "
            f"({model.encoder.spec.vocab_size} and {model.decoder.spec.vocab_size} words).",
            hint="model.tokenizer = TokenizerPair(source_tokenizer, target_tokenizer)",
        )
    return ids.tolist()
