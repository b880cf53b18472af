"""Source ids in the target's vocabulary, from which drafts can be copied."""

from collections.abc import Callable

from conjoin.errors import ConjoinError, GenerationError
from conjoin.tokenizer import TokenizerPair
from conjoin.torch.generation.model import Seq2SeqModel
from conjoin.torch.generation.reader import Sources


def copy_reader(model: Seq2SeqModel) -> Callable[[Sources], list[int]]:
    """Return a function that gives the ids of one source without padding, in the target's vocabulary.

    Raises:
        GenerationError: the vocabularies differ, and the model has no tokenizers to convert ids with.
    """
    try:
        tokenizers = model.tokenizer
    except ConjoinError:
        tokenizers = None
    if isinstance(tokenizers, TokenizerPair):
        source, target = tokenizers.source, tokenizers.target
        if source is target or source.get_vocab() == target.get_vocab():
            return _real_ids
        return lambda sources: _retokenized(sources, tokenizers)
    if model.encoder.spec.vocab_size != model.decoder.spec.vocab_size:
        raise GenerationError(
            f"copy_speculation copies source tokens into the target, but the vocabularies differ "
            f"({model.encoder.spec.vocab_size} and {model.decoder.spec.vocab_size} tokens).",
            hint="model.tokenizer = TokenizerPair(source_tokenizer, target_tokenizer), or copy the tokenizers' files "
            "into the model's folder.",
        )
    return _real_ids


def _real_ids(source: Sources) -> list[int]:
    if source.ids is None:
        return []
    ids = source.ids[0]
    return (ids if source.mask is None else ids[source.mask[0]]).tolist()


def _retokenized(source: Sources, tokenizers: TokenizerPair) -> list[int]:
    text = tokenizers.source.decode(_real_ids(source), skip_special_tokens=True)
    return tokenizers.target(text, add_special_tokens=False)["input_ids"]
