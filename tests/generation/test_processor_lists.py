"""Which processors a request gets, in which order, and how a list of them runs."""

from typing import Any

import pytest
import torch
from torch import Tensor

import oracle_generation as oracle
from conjoin.errors import ConjoinWarning, GenerationError
from conjoin.functional.processors import PROCESSORS
from conjoin.generation import CALLERS, SETTINGS, CallFacts, GenerationConfig, ProcessorSpec, resolve
from conjoin.torch.generation.processors import named as ours
from conjoin.torch.generation.processors.build import build_processors
from conjoin.torch.generation.processors.calling import LogitsProcessor, LogitsProcessorList
from generation_requests import MODEL, V, request_of

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("nothing", {}),
    ("min_length", {"min_length": 4}),
    (
        "every rule",
        {
            "sequence_bias": {(3, 4): 1.0},
            "encoder_repetition_penalty": 1.5,
            "repetition_penalty": 1.2,
            "no_repeat_ngram_size": 3,
            "encoder_no_repeat_ngram_size": 2,
            "bad_words_ids": [[5], [2]],
            "min_new_tokens": 3,
            "forced_bos_token_id": 4,
            "forced_eos_token_id": 2,
            "remove_invalid_values": True,
            "exponential_decay_length_penalty": (3, 1.1),
            "suppress_tokens": [7],
            "begin_suppress_tokens": [8],
            "watermarking_config": {"bias": 1.0},
            "renormalize_logits": True,
        },
    ),
    (
        "every warper",
        {
            "do_sample": True,
            "temperature": 0.7,
            "top_h": 0.5,
            "top_p": 0.9,
            "min_p": 0.05,
            "typical_p": 0.9,
            "epsilon_cutoff": 3e-4,
            "eta_cutoff": 3e-4,
        },
    ),
    ("plain sampling", {"do_sample": True}),
    ("sampling from everything", {"do_sample": True, "top_k": 0}),
    ("beam sampling", {"do_sample": True, "num_beams": 3, "top_p": 0.9}),
]


@pytest.mark.parametrize(("name", "asked"), CALLS, ids=[name for name, _ in CALLS])
@pytest.mark.parametrize("prompt", [1, 3])
@pytest.mark.parametrize("prefix", [None, lambda number, sent: [3, 4]], ids=["free", "prefixes"])
def test_the_plan_has_transformers_order(name: str, asked: dict[str, Any], prompt: int, prefix: Any) -> None:
    source = torch.randint(3, V, (2, 5))
    call = CallFacts(prompt_length=prompt, batch_size=2, prefix_allowed_tokens_fn=prefix is not None)
    request = resolve(GenerationConfig(max_new_tokens=9), asked, model=MODEL, call=call)
    built = build_processors(
        request.plan,
        source_ids=source,
        rows_per_source=request.rows_per_source,
        prefix_allowed_tokens_fn=prefix,
    )
    theirs = oracle.plan_names({**asked, "max_new_tokens": 9, "eos_token_id": 2}, prompt, source, prefix)
    if "min_new_tokens" in asked and "MinLengthLogitsProcessor" in theirs:
        theirs.remove("MinLengthLogitsProcessor")  # says the same once more
    assert [type(each).__name__ for each in built] == theirs


def test_without_source_ids_the_plan_has_nothing_that_looks_at_the_source() -> None:
    config = GenerationConfig(max_new_tokens=5, num_beams=2)
    asked = {"encoder_no_repeat_ngram_size": 2}
    spec = ProcessorSpec("encoder_no_repeat_ngram_size", (2,))
    assert resolve(config, asked, model=MODEL).plan == (spec, CALLERS)
    with pytest.warns(ConjoinWarning, match="encoder_no_repeat_ngram_size = 2: it needs input_ids"):
        request = resolve(config, asked, model=MODEL, call=CallFacts(source_ids=False))
    assert request.plan == (CALLERS,)
    with pytest.raises(GenerationError, match="encoder_no_repeat_ngram_size looks at the source, but no source ids"):
        build_processors((spec, CALLERS))


def test_every_setting_that_asks_for_a_processor_has_one_on_every_backend() -> None:
    asking = {name for name, row in SETTINGS.items() if row.processor is not None}
    only_in_torch = {"diversity_penalty", "watermarking_config"}
    assert asking - only_in_torch == PROCESSORS.keys()
    asked = {name: value for _, each in CALLS for name, value in each.items()} | {"min_length": 4, "num_beams": 1}
    asked |= {"top_k": 5, "min_new_tokens": None}
    groups = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "min_new_tokens": 2}
    requests = [resolve(GenerationConfig(max_new_tokens=9), each, model=MODEL) for each in (asked, groups)]
    assert {spec.name for request in requests for spec in request.plan} == {*asking, "logits_processor"}
    for request in requests:
        build_processors(request.plan, source_ids=torch.ones(1, 3, dtype=torch.long))


def test_the_parameters_of_a_plan_reach_the_processors() -> None:
    asked = {
        "max_new_tokens": 8,
        "num_beams": 2,
        "do_sample": True,
        "forced_bos_token_id": 4,
        "begin_suppress_tokens": [8],
        "exponential_decay_length_penalty": (3, 1.1),
        "min_new_tokens": 3,
        "forced_eos_token_id": 2,
        "top_p": 0.9,
    }
    request = resolve(GenerationConfig(), asked, model=MODEL)
    assert request.plan == (
        ProcessorSpec("min_new_tokens", (3, 1, (2,))),
        ProcessorSpec("forced_bos_token_id", (4,)),
        ProcessorSpec("forced_eos_token_id", ((2,), 9)),
        ProcessorSpec("exponential_decay_length_penalty", (4, 1.1, (2,))),
        ProcessorSpec("begin_suppress_tokens", ((8,), 2)),
        CALLERS,
        ProcessorSpec("top_k", (50, 2)),
        ProcessorSpec("top_p", (0.9, 2)),
    )


def test_the_callers_processors_run_before_the_warpers() -> None:
    def mine(input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores

    request = request_of(no_repeat_ngram_size=2, do_sample=True, temperature=0.5, top_k=0, renormalize_logits=True)
    built = build_processors(request.plan, custom=[mine])
    kinds = [type(each).__name__ for each in built]
    assert kinds == ["NoRepeatNGramLogitsProcessor", "function", "TemperatureLogitsWarper", "LogitNormalization"]
    assert not built.rows_may_leave


def test_a_callers_processor_replaces_ours_of_the_same_class() -> None:
    mine = ours.NoRepeatNGramLogitsProcessor(4)
    with pytest.warns(ConjoinWarning, match="logits_processor holds NoRepeatNGramLogitsProcessor"):
        built = build_processors(request_of(no_repeat_ngram_size=2).plan, custom=[mine])
    assert list(built) == [mine]


def test_processors_written_for_transformers_run() -> None:
    class OnlyEven(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            scores[:, 1::2] = -torch.inf
            return scores

    every = LogitsProcessorList([OnlyEven(), oracle.processor("TemperatureLogitsWarper", 0.5)])
    result = every(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 6))
    assert result.tolist() == [[2.0, -torch.inf, 2.0, -torch.inf, 2.0, -torch.inf]] * 2


def test_a_bad_word_that_is_an_end_alone_is_left_alone() -> None:
    built = build_processors(request_of(bad_words_ids=[[2]]).plan)
    assert list(built) == []
