"""What left transformers' core, held to plain references: diverse, contrastive and constrained decoding."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conjoin import BertConfig, EncoderDecoderModel
from conjoin.errors import ConjoinWarning
from conjoin.generation import AnyOf, Phrase
from generate_models import EOS, PAD, models, sources
from pairs import SMALL, fresh, stir
from references.constrained import best_with_phrases, contains
from references.contrastive import contrastive
from references.diverse import diverse_beams
from references.plain import readings

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

TRIALS = settings(max_examples=9, deadline=None, derandomize=True)
KINDS = ["bert-gpt2", "electra-electra", "bart"]
either = st.sampled_from


def cut(ids: list[int]) -> list[int]:
    """Ids without the padding behind them."""
    while ids and ids[-1] == PAD:
        ids = ids[:-1]
    return ids


def some_ends(model: EncoderDecoderModel, ids: Tensor, mask: Tensor, places: list[int]) -> list[int]:
    """End ids that the model does write."""
    free = model.generate(ids, attention_mask=mask, max_new_tokens=8, num_beams=2)
    return sorted({EOS, *(int(free[0, place % free.shape[1]]) for place in places)} - {PAD})


@pytest.mark.parametrize("name", KINDS)
def test_diverse_beams_are_those_of_groups_searched_one_by_one(name: str) -> None:
    @TRIALS
    @given(
        seed=st.integers(0, 3),
        shape=either([(2, 2), (4, 2), (6, 3), (3, 3), (6, 2)]),
        penalty=either([0.3, 1.0, 5.0]),
        places=st.lists(st.integers(1, 6), max_size=2),
        new=either([1, 3, 7]),
        length_penalty=either([-0.5, 0.0, 1.0, 2.0]),
        early_stopping=either([False, True, "never"]),
    )
    def check(seed: int, shape: tuple[int, int], penalty: float, places: list[int], new: int, **rules: Any) -> None:
        model, _ = models(name, seed)
        ids, mask = sources(name, seed, (6, 4))
        eos = some_ends(model, ids, mask, places)
        asked = {"num_beams": shape[0], "num_beam_groups": shape[1], "diversity_penalty": penalty, **rules}
        asked["max_new_tokens"] = new
        given = {"attention_mask": mask, "eos_token_id": eos, "num_return_sequences": shape[0], **asked}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Fewer results")
            found = model.generate(ids, **given, return_dict_in_generate=True, output_scores=True)
            lean = model.generate(ids, **given)
        counts = found.get("results_per_source", torch.full((len(ids),), shape[0])).tolist()
        for source, reading in enumerate(readings(model, ids, mask)):
            wanted = diverse_beams(reading, [9], eos=eos, **asked)
            assert counts[source] == len(wanted)
            rows = slice(sum(counts[:source]), sum(counts[: source + 1]))
            torch.testing.assert_close(
                found.sequences_scores[rows], torch.tensor([score for score, _ in wanted]), rtol=1e-5, atol=1e-5
            )
            best = [ids for _, ids in wanted]
            assert sorted(cut(row) for row in found.sequences[rows].tolist()) == sorted(best)
            assert sorted(cut(row) for row in lean[rows].tolist()) == sorted(best)

    check()


def test_diversity_is_in_its_place_among_the_processors() -> None:
    """As in transformers 4 it comes before what forces a word, whose score it must not touch."""
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    given = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 3.0, "max_new_tokens": 1}
    with pytest.warns(ConjoinWarning, match="Fewer results than num_return_sequences = 2: source 0 has 1"):
        found = model.generate(
            ids,
            attention_mask=mask,
            **given,
            forced_eos_token_id=EOS,
            num_return_sequences=2,
            return_dict_in_generate=True,
            output_scores=True,
        )
    assert found.sequences.tolist() == [[9, EOS]] * 3 and (found.sequences_scores == 0).all()
    assert found.results_per_source.tolist() == [1, 1, 1]


def test_processors_of_callers_are_told_the_group_and_its_words() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    seen = []

    def look(input_ids: Tensor, scores: Tensor, current_tokens: Tensor, beam_group_idx: int) -> Tensor:
        seen.append((beam_group_idx, len(input_ids), current_tokens.view(-1, 4).tolist()))
        return scores

    model.generate(
        ids,
        attention_mask=mask,
        num_beams=4,
        num_beam_groups=2,
        diversity_penalty=1.0,
        max_new_tokens=2,
        logits_processor=[look],
    )
    assert [(group, rows) for group, rows, _ in seen] == [(0, 6), (1, 6)] * 2
    for group, _, words in seen:
        assert all((word >= 0) == (beam < 2 * group) for row in words for beam, word in enumerate(row))


@pytest.mark.parametrize("name", KINDS)
def test_contrastive_search_is_that_without_a_cache(name: str) -> None:
    @TRIALS
    @given(
        seed=st.integers(0, 3),
        alpha=either([0.1, 0.6, 0.95, 1.0]),
        top_k=either([2, 4, 11]),
        places=st.lists(st.integers(1, 6), max_size=2),
    )
    def check(seed: int, alpha: float, top_k: int, places: list[int]) -> None:
        model, _ = models(name, seed)
        ids, mask = sources(name, seed)
        eos = some_ends(model, ids, mask, places)
        given = {"attention_mask": mask, "eos_token_id": eos, "penalty_alpha": alpha, "top_k": top_k}
        found = model.generate(ids, **given, max_new_tokens=7)
        for row, reading in zip(found.tolist(), readings(model, ids, mask), strict=True):
            wanted, closest = contrastive(reading, [9], alpha=alpha, top_k=top_k, max_new_tokens=7, eos=eos)
            assert closest < 1e-6 or row == wanted + [PAD] * (len(row) - len(wanted))

    check()


def test_contrastive_search_never_takes_what_is_forbidden() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    forbidden = [word for word in range(53) if word not in (20, 30)]
    found = model.generate(
        ids, attention_mask=mask, penalty_alpha=1.0, top_k=6, max_new_tokens=9, suppress_tokens=forbidden
    )
    assert {*found[:, 1:].flatten().tolist()} <= {20, 30}


def test_contrastive_search_gives_the_states_of_what_it_took() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0, (5, 5))
    wants = dict.fromkeys(("return_dict_in_generate", "output_hidden_states", "output_attentions"), True)
    found = model.generate(ids, attention_mask=mask, penalty_alpha=0.6, top_k=4, max_new_tokens=6, **wants)
    whole = model(ids, mask, found.sequences[:, :-1], output_hidden_states=True, output_attentions=True)
    assert len(found.decoder_hidden_states) == len(found.cross_attentions) == 6
    for step, states in enumerate(found.decoder_hidden_states):
        torch.testing.assert_close(states[-1][:, 0], whole.decoder_hidden_states[-1][:, step], rtol=1e-5, atol=1e-5)
    for step, weights in enumerate(found.cross_attentions):
        torch.testing.assert_close(weights[-1][:, :, 0], whole.cross_attentions[-1][:, :, step], rtol=1e-5, atol=1e-5)


TINY = 5
"""Words, so few that every hypothesis can be tried."""


def tiny_model(seed: int) -> EncoderDecoderModel:
    torch.manual_seed(seed)
    few = {"num_attention_heads": 3, "hidden_size": 12, **SMALL}
    decoder = BertConfig(vocab_size=TINY, pad_token_id=3, **few)
    ends = {"decoder_start_token_id": 0, "pad_token_id": 3, "eos_token_id": 4, "bos_token_id": 0}
    model = stir(fresh(BertConfig(vocab_size=61, pad_token_id=4, **few), decoder, **ends))
    with torch.no_grad():
        model.decoder.head.bias.mul_(3) if getattr(model.decoder.head, "bias", None) is not None else None
    return model


PHRASES = (
    [[[1, 2]]],
    [[[2]], [[1]]],
    [[[1, 1, 2]]],
    [[[0, 1], [2, 2]]],
    [[[1, 2], [2]], [[0]]],
    [[[1, 2, 1]], [[2, 1]]],
)


@pytest.mark.parametrize("phrases", PHRASES, ids=str)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_with_enough_beams_the_best_hypotheses_with_all_phrases_are_found(
    phrases: list[list[list[int]]], length_penalty: float
) -> None:
    model = tiny_model(1)
    ids = torch.tensor([[20, 30, 40], [33, 12, 50]])
    mask = torch.ones_like(ids)
    given = {"num_beams": TINY**3, "num_return_sequences": 3, "early_stopping": "never", "max_new_tokens": 4}
    force = [words[0] if len(words) == 1 else words for words in phrases]
    found = model.generate(
        ids,
        **given,
        force_words_ids=force,
        length_penalty=length_penalty,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for source, reading in enumerate(readings(model, ids, mask)):
        wanted = best_with_phrases(
            reading, [0], phrases, vocab_size=TINY, max_new_tokens=4, eos=4, length_penalty=length_penalty, count=3
        )
        rows = slice(3 * source, 3 * source + 3)
        scores = torch.tensor([score for score, _ in wanted])
        torch.testing.assert_close(found.sequences_scores[rows], scores, rtol=1e-5, atol=1e-5)
        assert [row[: len(ids)] for row, (_, ids) in zip(found.sequences[rows].tolist(), wanted, strict=True)] == [
            ids for _, ids in wanted
        ]


@pytest.mark.parametrize("name", ["bert-gpt2", "t5"])
def test_results_contain_their_phrases(name: str) -> None:
    @TRIALS
    @given(
        seed=st.integers(0, 3),
        phrases=st.lists(
            st.lists(st.lists(st.integers(11, 52), min_size=1, max_size=3), min_size=1, max_size=2),
            min_size=1,
            max_size=3,
        ),
        beams=either([2, 4, 7]),
        early_stopping=either([False, True, "never"]),
        places=st.lists(st.integers(1, 6), max_size=1),
    )
    def check(seed: int, phrases: list[list[list[int]]], beams: int, early_stopping: Any, places: list[int]) -> None:
        model, _ = models(name, seed)
        ids, mask = sources(name, seed)
        eos = some_ends(model, ids, mask, places)
        words = {word for alternatives in phrases for phrase in alternatives for word in phrase}
        wanted = [AnyOf(phrases=tuple(Phrase(ids=tuple(p)) for p in alternatives)) for alternatives in phrases]
        found = model.generate(
            ids,
            attention_mask=mask,
            num_beams=beams,
            num_return_sequences=1,
            max_new_tokens=14,
            early_stopping=early_stopping,
            constraints=wanted,
            eos_token_id=sorted({*eos} - words) or EOS,
        )
        assert all(contains(row, phrases) for row in found.tolist())

    check()


def test_what_cannot_hold_its_phrases_is_told() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    with pytest.warns(ConjoinWarning, match="do not contain every phrase"):
        found = model.generate(
            ids, attention_mask=mask, num_beams=3, max_new_tokens=2, force_words_ids=[[20, 21, 22, 23]]
        )
    assert found.shape == (3, 3)


def test_an_end_id_that_is_also_the_pad_id_ends_nothing_by_itself() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    found = model.generate(
        ids, attention_mask=mask, num_beams=4, max_new_tokens=9, force_words_ids=[[20, 21]], pad_token_id=EOS
    )
    assert all(contains(row, [[[20, 21]]]) for row in found.tolist())


class StopsAt:
    """Ends rows at a length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_a_stop_ends_constrained_beams_with_what_they_have() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    given = {"attention_mask": mask, "num_beams": 4, "max_new_tokens": 12, "force_words_ids": [[20, 21]]}
    found = model.generate(ids, **given, stopping_criteria=[StopsAt(5)])
    assert found.shape[1] == 5 and all(contains(row, [[[20, 21]]]) for row in found.tolist())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = model.generate(ids, **given, stopping_criteria=[StopsAt(2)])
    assert found.shape[1] == 2 and "do not contain every phrase" in str(told[-1].message)


def test_prefixes_are_held_by_every_kind() -> None:
    model, _ = models("bert-gpt2", 0)
    ids, mask = sources("bert-gpt2", 0)
    trie = {0: [[20, 21, EOS], [20, 22, 23, EOS]], 1: [[30, EOS], [31, 32, 33, EOS]], 2: [[40, 41, EOS]]}

    def allowed(source: int, written: Tensor) -> list[int]:
        begun = written.tolist()[1:]
        return sorted({path[len(begun)] for path in trie[source] if path[: len(begun)] == begun and begun != path}) or [
            EOS
        ]

    for kind in (
        {},
        {"do_sample": True},
        {"num_beams": 3},
        {"num_beams": 3, "do_sample": True, "top_k": 0},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.6, "top_k": 4},
    ):
        found = model.generate(ids, attention_mask=mask, max_new_tokens=6, prefix_allowed_tokens_fn=allowed, **kind)
        for source, row in enumerate(found.tolist()):
            assert cut(row)[1:] in trie[source], (kind, row)


@pytest.mark.parametrize("kind", ["diverse", "constrained"])
def test_scores_of_words_add_up_to_the_score_of_the_result(kind: str) -> None:
    model, _ = models("bart", 0)
    ids, mask = sources("bart", 0)
    kinds: dict[str, dict[str, Any]] = {
        "diverse": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7},
        "constrained": {"num_beams": 6, "force_words_ids": [[20, 21]]},
    }
    free = model.generate(ids, attention_mask=mask, max_new_tokens=6)
    found = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        eos_token_id=[EOS, int(free[0, 3])],
        num_return_sequences=4,
        length_penalty=1.0,
        return_dict_in_generate=True,
        output_scores=True,
        **kinds[kind],
    )
    each = model.compute_transition_scores(found.sequences, found.scores, found.beam_indices)
    lengths = (found.beam_indices >= 0).sum(1)
    torch.testing.assert_close(each.sum(1) / lengths, found.sequences_scores, rtol=1e-5, atol=1e-5)
