"""The facts that a run chooses by: of the checkpoints, of the joined pair and of the data."""

from conjoin import spec
from conjoin.checkpoint import resolve
from conjoin.configuration import AutoConfig
from conjoin.errors import ConjoinError
from conjoin.families import family
from conjoin.generation.config import GenerationConfig
from conjoin.join import Copied, InMemory, JoinReport, half_spec
from conjoin.texts.pairs import Pairs
from conjoin.tokenizer import AutoTokenizer, Tokenizer, TokenizerPair
from conjoin.training.data.candidates import RankedExamples
from conjoin.training.data.examples import Examples
from conjoin.training.data.inputs import TrainingData
from conjoin.training.data.tokenizing import Room, tokenize_pairs
from conjoin.training.settings.choices import DataFacts, JoinFacts, PairFacts


def join_facts(encoder: str, decoder: str) -> JoinFacts | None:
    """Look at two checkpoints that are to be joined; None if they cannot be, which joining explains.

    Args:
        encoder, decoder: Folders or hub ids.
    """
    try:
        folders = resolve(encoder), resolve(decoder)
        configs = [AutoConfig.from_pretrained(folder) for folder in folders]
        reader, writer = half_spec(configs[0], "encoder"), half_spec(configs[1], "decoder")
        tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in folders]
    except ConjoinError:
        return None
    tables = [spec.stack_parameters(stack)["embed.words.weight"].shape for stack in (reader, writer)]
    one = tables[0] == tables[1] and _vocabulary(tokenizers[0]) == _vocabulary(tokenizers[1])
    return JoinFacts(
        one_vocabulary=one,
        writes=_writes(writer),
        can_gate=all(block.norms.post is None for block in writer.blocks),
        reads_by_itself=family(writer.family).decoder == "half",
        is_itself=folders[0].resolve() == folders[1].resolve(),
    )


def _vocabulary(tokenizer: Tokenizer | TokenizerPair) -> dict[str, int]:
    return (tokenizer.source if isinstance(tokenizer, TokenizerPair) else tokenizer).get_vocab()


def _writes(decoder: spec.StackSpec) -> bool:
    """True if checkpoints of the family are language models, and not encoders that read both ways."""
    return family(decoder.family).encoder != "native"


def pair_facts(
    report: JoinReport,
    pair: spec.PairSpec,
    *,
    joined: bool = False,
    limit: int | None = None,
    positions: int | None = None,
) -> PairFacts:
    """Look at a joined pair.

    Args:
        joined: True if it was joined just now, which the report does not say where the halves share all parameters.
        limit, positions: As in PairFacts.
    """
    fresh = frozenset(part for part, copied, _, fresh, _ in report.rows() if fresh and fresh >= copied)
    offers = {id(origin.offer) for origin in report.origins.values() if isinstance(origin, Copied)}
    in_memory = bool(report.names(InMemory))
    return PairFacts(
        fresh=fresh,
        writes=_writes(pair.decoder) and not any(part.startswith("decoder.layers") for part in fresh),
        joined=joined or len(offers) > 1 or in_memory or bool(fresh),
        width=pair.decoder.hidden_size,
        dropout=max(_dropout(pair.encoder), _dropout(pair.decoder)),
        shares_all=pair.share == "all",
        limit=limit,
        positions=positions,
    )


def limit_of(generation: GenerationConfig) -> int | None:
    """Return the tokens that a result may have at most, where a generation_config says so."""
    if generation.max_new_tokens is not None or generation.max_length is None:
        return generation.max_new_tokens
    return generation.max_length - 1  # which counts the start id


def _dropout(stack: spec.StackSpec) -> float:
    rates = [stack.embedding.dropout, stack.final_dropout]
    for block in stack.blocks:
        rates += [block.dropout, block.self_attn.attention.dropout, block.mlp.activation_dropout]
    return max(rates)


def text_facts(sample: Pairs, tokenizer: Tokenizer | TokenizerPair, room: Room, *, validates: bool) -> DataFacts:
    """Measure some pairs of data that are not tokenized yet."""
    lengths = tokenize_pairs(sample, tokenizer, room).lengths
    return DataFacts(pairs=len(sample), lengths=lengths, is_text=True, validates=validates)


def example_facts(examples: TrainingData, *, validates: bool, is_sized: bool = True) -> DataFacts:
    """Measure tokenized pairs, which nothing cuts any more.

    Args:
        is_sized: False if sources are arrays, so that nobody knows lengths.
    """
    return DataFacts(
        pairs=len(examples),
        lengths=examples.lengths,
        is_text=False,
        validates=validates,
        is_sized=is_sized,
        longest_target=examples.longest_target if isinstance(examples, Examples) else 0,
        ranks=isinstance(examples, RankedExamples),
    )
