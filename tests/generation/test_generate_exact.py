"""Greedy and beam search give transformers' tokens and scores, whatever the settings."""

import random
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle_generation as oracle
from conjoin.errors import GenerationError
from generate_models import EOS, NAMES, PAD, models, sources

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

TRIALS = settings(max_examples=40, deadline=None, derandomize=True)  # 32 bits cannot tell some hypotheses apart
WORD = st.integers(0, 52)
NOTHING = -1e8
"""Scores below are of beams that found nothing, where any impossible words may stand."""
LENGTHS = st.sampled_from([(7, 5, 3), (4,), (2, 6), (1, 9, 9, 4)])


def either(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


class Allowed:
    """Allows a third of the words, others for each source and last word, and always the end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __repr__(self) -> str:
        return f"Allowed({self.seed})"

    def __call__(self, source: int, ids: Tensor) -> list[int]:
        words = range(53)
        return [EOS, *random.Random(f"{self.seed} {source} {int(ids[-1])}").sample(words, 18)]


PROCESSED: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": either(0.7, 1.5, 3.0),
    "no_repeat_ngram_size": either(1, 2, 3),
    "bad_words_ids": st.lists(st.lists(WORD, min_size=1, max_size=2), min_size=1, max_size=6),
    "sequence_bias": st.dictionaries(
        st.tuples(WORD) | st.tuples(WORD, WORD), either(-5.0, 3.0), min_size=1, max_size=5
    ),
    "suppress_tokens": st.lists(WORD, min_size=1, max_size=20),
    "begin_suppress_tokens": st.lists(WORD, min_size=1, max_size=20),
    "forced_bos_token_id": WORD,
    "forced_eos_token_id": either(EOS, [EOS, 12]),
    "exponential_decay_length_penalty": st.tuples(either(0, 2, 5), either(1.1, 1.9, 0.8)),
    "renormalize_logits": st.just(True),
    "remove_invalid_values": st.just(True),
    "prefix_allowed_tokens_fn": st.builds(Allowed, st.integers(0, 9)),
}
SOURCE_READERS: dict[str, st.SearchStrategy[Any]] = {
    "encoder_repetition_penalty": either(0.6, 1.7),
    "encoder_no_repeat_ngram_size": either(1, 2, 3),
}
SEARCH: dict[str, st.SearchStrategy[Any]] = {
    "length_penalty": either(-1.0, 0.0, 0.6, 1.0, 2.5),
    "early_stopping": either(False, True, "never"),
}


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    """A model's seed, sources, and settings of one call."""
    lengths = draw(LENGTHS)
    call: dict[str, Any] = {"seed": draw(st.integers(0, 3)), "source": draw(st.integers(0, 50)), "lengths": lengths}
    call["ends"] = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=2))
    beams = draw(either(1, 1, 2, 3, 4, 5))
    new = draw(either(1, 2, 5, 9, 12))
    chosen: dict[str, Any] = {"num_beams": beams, "max_new_tokens": new}
    if beams > 1:
        chosen |= {name: draw(kind) for name, kind in SEARCH.items()}
        chosen["num_return_sequences"] = draw(st.integers(1, beams))
    if new > 2 and draw(st.booleans()):
        chosen[draw(either("min_length", "min_new_tokens"))] = draw(either(1, new // 2, new))
    readers = SOURCE_READERS if len(set(lengths)) == 1 else {}  # transformers' let padding count
    for name in draw(st.lists(either(*PROCESSED, *readers), max_size=3, unique=True)):
        chosen[name] = draw({**PROCESSED, **readers}[name])
    forced = {chosen.get("forced_bos_token_id"), EOS, 12}
    if "suppress_tokens" in chosen:
        chosen["suppress_tokens"] = [word for word in chosen["suppress_tokens"] if word not in forced] or [13]
    if "exponential_decay_length_penalty" in chosen:
        chosen.pop("remove_invalid_values", None)  # the largest numbers grow to infinity, where all ends are equal
    if beams > 1 and isinstance(chosen.get("forced_eos_token_id"), list):
        chosen["forced_eos_token_id"] = EOS  # of equal scores, topk returns either
    call["prefix"] = draw(st.none() | st.lists(st.integers(11, 52), min_size=1, max_size=3))
    call["encoded"] = draw(either(False, False, True)) and not readers
    return {**call, "settings": chosen}


def run(name: str, call: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """The call's results by us and by transformers."""
    ours, theirs = models(name, call["seed"])
    ids, mask = sources(name, call["source"], call["lengths"])
    given: dict[str, Any] = {**call["settings"], **more, "attention_mask": mask}
    given["eos_token_id"] = ends(theirs, ids, mask, call["ends"])
    if name == "roberta-roberta":
        # A pad written as a word: transformers' step counts it among the positions, its full pass and we do not.
        given["suppress_tokens"] = [PAD, *given.get("suppress_tokens", ())]
    mine = dict(given)
    if call["prefix"] is not None:
        prefix = torch.tensor(call["prefix"]).expand(len(ids), -1)
        mine["decoder_input_ids"] = given["decoder_input_ids"] = prefix
    if call["encoded"]:
        mine["encoder_outputs"] = ours.encoder(ids, mask)
        given["encoder_outputs"] = theirs.get_encoder()(ids, mask)
        ids = None
    given |= {"return_dict_in_generate": True, "output_scores": True}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Fewer results")
        return found_or_rejected(ours, ids, mine), oracle.generate(theirs, ids, **given)


def found_or_rejected(ours: Any, ids: Tensor | None, given: dict[str, Any]) -> Any:
    """Our results; a call that leaves a row no token is none to compare: transformers writes impossible words there."""
    try:
        return ours.generate(ids, **given)
    except GenerationError as error:
        assert "no token is left" in str(error) or "no first token" in str(error) or "ends every result" in str(error)
        reject()


def cut(row: Tensor) -> list[int]:
    """Ids without the padding behind them."""
    ids = row.tolist()
    while ids and ids[-1] == PAD:
        ids.pop()
    return ids


def ends(model: Any, ids: Tensor, mask: Tensor, places: list[tuple[int, int]]) -> int | list[int]:
    """End ids that the model does write: words of its own greedy results."""
    free = oracle.generate(model, ids, attention_mask=mask, max_new_tokens=10, eos_token_id=None, pad_token_id=PAD)
    words = {int(free[row % len(free), column]) for row, column in places} - {PAD}
    return sorted(words | {EOS}) if words else EOS


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_transformers_tokens(name: str) -> None:
    @TRIALS
    @given(call=calls())
    def check(call: dict[str, Any]) -> None:
        mine, theirs = run(name, call)
        real = theirs.get("sequences_scores", torch.zeros(len(mine))) > NOTHING
        ids = theirs.sequences
        same = mine.equal(ids) if real.all() else [*map(cut, mine)] == [*map(cut, ids[real])]
        if not same:
            check_tied(run(name, call, return_dict_in_generate=True, output_scores=True)[0], theirs)
            assert mine.tolist() == ids.tolist()

    check()


EVERYTHING = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
FORBIDDING = ("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids")
"""Settings that may leave beams without a word."""


@pytest.mark.parametrize("name", ["bert-bert", "roberta-gpt2", "t5"])
def test_all_that_is_returned_is_as_transformers_returns_it(name: str) -> None:
    @settings(TRIALS, max_examples=8)
    @given(call=calls().filter(lambda call: not {*call["settings"]} & {*FORBIDDING, "prefix_allowed_tokens_fn"}))
    def check(call: dict[str, Any]) -> None:
        mine, theirs = run(name, call, **dict.fromkeys(EVERYTHING, True))
        if mine.sequences.tolist() != theirs.sequences.tolist():
            check_tied(mine, theirs)
        assert mine.sequences.tolist() == theirs.sequences.tolist()
        assert {*mine} == {key for key in theirs if theirs[key] is not None}
        for each in ("scores", "logits", "encoder_attentions", "encoder_hidden_states"):
            close(mine.get(each), theirs.get(each))
        for each in ("decoder_attentions", "cross_attentions", "decoder_hidden_states"):
            assert len(mine[each]) == len(theirs[each])
            for layers in zip(mine[each], theirs[each], strict=True):
                close(*layers)
        if call["settings"]["num_beams"] > 1:
            assert mine.beam_indices.tolist() == theirs.beam_indices.tolist()
            close(mine.sequences_scores, theirs.sequences_scores)
        ours, model = models(name, call["seed"])
        for normalize in (False, True):
            arguments = (mine.sequences, mine.scores, mine.get("beam_indices"), normalize)
            close(ours.compute_transition_scores(*arguments), oracle.transition_scores(model, *arguments))

    check()


def check_tied(mine: Any, theirs: Any) -> None:
    """Give the call up where other hypotheses won by the last bit: their scores are equal in float32."""
    if "sequences_scores" in theirs and torch.allclose(mine.sequences_scores, theirs.sequences_scores, rtol=1e-6):
        reject()


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


WARPED = (
    {"temperature": 0.7, "top_k": 0},
    {"top_k": 5},
    {"top_k": 0, "top_p": 0.8},
    {"top_k": 0, "min_p": 0.05},
    {"top_k": 0, "typical_p": 0.6},
    {"top_k": 0, "epsilon_cutoff": 0.02, "eta_cutoff": 0.02},
    {"top_k": 9, "repetition_penalty": 1.4, "num_beams": 3, "num_return_sequences": 2},
    {"top_k": 0, "temperature": 1.3, "num_beams": 2, "length_penalty": 0.0, "early_stopping": True},
)


@pytest.mark.parametrize("warped", WARPED, ids=str)
@pytest.mark.parametrize("name", ["bert-gpt2", "bart"])
def test_a_seed_draws_transformers_words(name: str, warped: dict[str, Any]) -> None:
    ours, theirs = models(name, 1)
    ids, mask = sources(name, 3)
    given = {"do_sample": True, "max_new_tokens": 9, "attention_mask": mask, "return_dict_in_generate": True, **warped}
    for seed in range(3):
        torch.manual_seed(seed)
        mine = ours.generate(ids, **given).sequences
        torch.manual_seed(seed)
        assert mine.tolist() == oracle.generate(theirs, ids, **given).sequences.tolist()


def test_results_drawn_for_one_source_end_one_by_one() -> None:
    ours, theirs = models("bert-gpt2", 1)
    ids, mask = sources("bert-gpt2", 3, (7,))
    given = {"attention_mask": mask, "do_sample": True, "top_k": 0, "max_new_tokens": 9, "num_return_sequences": 5}
    given["eos_token_id"] = [*range(10, 20)]
    torch.manual_seed(0)
    mine = ours.generate(ids, **given)
    torch.manual_seed(0)
    assert mine.tolist() == oracle.generate(theirs, ids, **given).tolist()
    assert len((mine == PAD).sum(1).unique()) > 1


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("name", ["bert-gpt2", "bert-bert", "t5"])
def test_prompts_padded_on_the_left_are_read_as_transformers_reads_them_alone(name: str, num_beams: int) -> None:
    """In a batch it counts the positions of BERT and GPT-2 over padding."""
    ours, theirs = models(name, 1)
    ids, mask = sources(name, 2)
    prefix = torch.tensor([[9, 20, 33, 41], [PAD, 9, 27, 15], [PAD, PAD, PAD, 9]])
    given = {"decoder_input_ids": prefix, "decoder_attention_mask": (prefix != PAD).long(), "attention_mask": mask}
    settings = {"num_beams": num_beams, "max_new_tokens": 8, "min_new_tokens": 8}
    found = ours.generate(ids, **given, **settings)
    for row, start in enumerate([0, 1, 3]):
        one = slice(row, row + 1)
        alone = {"decoder_input_ids": prefix[one, start:], "attention_mask": mask[one]}
        assert found[row, start:].tolist() == oracle.generate(theirs, ids[one], **alone, **settings)[0].tolist()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_source_may_have_a_start_of_its_own(num_beams: int) -> None:
    ours, theirs = models("bart", 0)
    ids, mask = sources("bart", 2)
    given = {"decoder_start_token_id": [12, 30, 9], "attention_mask": mask, "num_beams": num_beams, "max_new_tokens": 8}
    assert ours.generate(ids, **given).tolist() == oracle.generate(theirs, ids, **given).tolist()


def test_behind_an_end_stands_the_pad_id_even_where_it_is_0() -> None:
    """transformers' beams write the end id there, since it takes a pad id of 0 for none."""
    ours, theirs = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    given = {
        "attention_mask": mask,
        "num_beams": 4,
        "max_new_tokens": 8,
        "num_return_sequences": 4,
        "length_penalty": 0.0,
    }
    written = ours.generate(ids, **given)[:, 1:].unique().tolist()
    for end in written:  # one that ends some hypothesis before the others
        ending = given | {"eos_token_id": end, "pad_token_id": 0}
        mine, other = ours.generate(ids, **ending), oracle.generate(theirs, ids, **ending)
        behind = (mine == end).cumsum(1).roll(1, 1).bool() & (torch.arange(mine.shape[1]) > 0)
        if behind.any():
            break
    assert behind.any() and (mine[behind] == 0).all() and (other[behind] == end).all()
    assert mine[~behind].equal(other[~behind])
