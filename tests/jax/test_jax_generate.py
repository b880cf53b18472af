"""generate on JAX: the tokens of the PyTorch backend, which are held to transformers' elsewhere."""

import random
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import generate_models
from conjoin import EncoderDecoderModel, FlaxEncoderDecoderModel
from conjoin.errors import ConjoinWarning, GenerationError
from conjoin.functional.processors import ProcessorContext, build_processors
from conjoin.jax.ops import OPS
from conjoin.torch.generation.processors.build import build_processors as build_torch
from generate_models import sources
from generation_requests import CALL, request_of
from lanes import lanes


@cache
def folder(name: str, root: Path) -> Path:
    generate_models.models(name)[0].save_pretrained(root / name)
    return root / name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generate")


@cache
def twins(name: str, root: Path) -> tuple[EncoderDecoderModel, FlaxEncoderDecoderModel]:
    return generate_models.models(name)[0], FlaxEncoderDecoderModel.from_pretrained(folder(name, root))


def expect_equal(name: str, root: Path, seed: int = 0, **settings: Any) -> np.ndarray:
    """Both backends write the same; returns what."""
    theirs, ours = twins(name, root)
    ids, mask = sources(name, seed)
    expected = theirs.generate(ids, attention_mask=mask, **settings)
    found = ours.generate(jnp.asarray(ids.numpy()), attention_mask=jnp.asarray(mask.numpy()), **settings).sequences
    assert np.asarray(found).tolist() == expected.tolist()
    return np.asarray(found)


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 12},
    "beams": {"max_new_tokens": 12, "num_beams": 3},
    "early": {
        "max_new_tokens": 9,
        "num_beams": 4,
        "num_return_sequences": 2,
        "early_stopping": True,
        "length_penalty": 2.0,
    },
}


FAST = {("bert-gpt2", "greedy"), ("bert-gpt2", "early"), ("t5", "beams"), ("bart", "greedy")}


@pytest.mark.parametrize(("name", "kind"), lanes(product(generate_models.NAMES, SETTINGS), FAST.__contains__))
def test_every_model_writes_what_torch_writes(name: str, kind: str, root: Path) -> None:
    for seed in range(3):
        expect_equal(name, root, seed, **SETTINGS[kind])


def drawn_settings(seed: int) -> dict[str, Any]:
    """A random request, the same for the same seed."""
    rng = random.Random(seed)
    choices: dict[str, list[Any]] = {
        "repetition_penalty": [1.3, 0.8],
        "no_repeat_ngram_size": [1, 2, 3],
        "encoder_repetition_penalty": [1.5, 0.7],
        "encoder_no_repeat_ngram_size": [1, 2],
        "min_new_tokens": [3],
        "min_length": [5],
        "forced_bos_token_id": [20],
        "forced_eos_token_id": [[7]],  # two forced ids would tie, and a tie has no order
        "suppress_tokens": [[11, 12, 13]],
        "begin_suppress_tokens": [[14, 15]],
        "bad_words_ids": [[[20], [21, 22], [23, 24, 25]]],
        "sequence_bias": [{(30,): 2.0, (31, 32): 4.0}],
        "exponential_decay_length_penalty": [(3, 1.3)],
        "renormalize_logits": [True],
        "remove_invalid_values": [True],
        "eos_token_id": [[7, 19, 33]],
    }
    settings = {name: rng.choice(choices[name]) for name in rng.sample(sorted(choices), 5)}
    if "min_new_tokens" in settings:
        settings.pop("min_length", None)
    if rng.random() < 0.6:
        settings |= {
            "num_beams": rng.choice([2, 3]),
            "length_penalty": rng.choice([1.0, 0.0, 2.0, -1.0]),
            "early_stopping": rng.choice([True, False, "never"]),
        }
    return settings | {"max_new_tokens": rng.choice([8, 12])}


@pytest.mark.parametrize("seed", lanes(range(12), lambda seed: seed < 3))
def test_random_settings_give_torchs_tokens(seed: int, root: Path) -> None:
    expect_equal(("bert-gpt2", "t5", "bert-bart")[seed % 3], root, seed, **drawn_settings(seed))


WARPERS: list[dict[str, Any]] = [
    {"top_k": 7, "temperature": 0.7},
    {"top_k": 0, "top_p": 0.6},
    {"top_k": 0, "min_p": 0.2},
    {"top_k": 0, "typical_p": 0.5},
    {"top_k": 0, "epsilon_cutoff": 0.02},
    {"top_k": 0, "eta_cutoff": 0.02},
    {"top_k": 0, "top_h": 0.6},
    {"top_k": 20, "top_p": 0.7, "num_beams": 2, "repetition_penalty": 1.4},
]


@pytest.mark.parametrize("settings", WARPERS, ids="-".join)
def test_a_distribution_is_shaped_as_in_torch(settings: dict[str, Any]) -> None:
    plan = request_of(do_sample=True, **settings).plan
    torch.manual_seed(0)
    scores, ids = torch.randn(4, 53) * 3, torch.randint(0, 53, (4, 6))
    source, mask = torch.randint(0, 53, (4, 5)), torch.ones(4, 5, dtype=torch.bool)
    expected = build_torch(plan, source_ids=source, source_mask=mask)(ids, scores)
    process = build_processors(OPS, plan, ProcessorContext(source_ids=jnp.asarray(source.numpy())))
    assert process is not None and CALL.source_ids
    found = process(jnp.asarray(np.pad(ids.numpy(), [(0, 0), (0, 3)])), jnp.int32(6), jnp.asarray(scores.numpy()))
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_drawn_follows_the_key_and_the_distribution(root: Path) -> None:
    ours = twins("bert-gpt2", root)[1]
    ids, mask = (jnp.asarray(x.numpy()) for x in sources("bert-gpt2", lengths=(7,)))
    settings = {"max_new_tokens": 1, "do_sample": True, "num_return_sequences": 4000, "top_k": 5}
    first, again, other = (
        np.asarray(ours.generate(ids, attention_mask=mask, prng_key=jax.random.key(key), **settings).sequences)
        for key in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    start = first[:1, :1]
    logits = np.asarray(ours(ids, mask, decoder_input_ids=start).logits[0, -1], np.float64)
    best = np.argsort(logits)[-5:]
    expected = np.exp(logits[best]) / np.exp(logits[best]).sum()
    counts = np.array([(first[:, 1] == word).sum() for word in best])
    assert counts.sum() == len(first)
    assert (np.abs(counts / len(first) - expected) < 0.035).all()


def test_sampled_beams_repeat_with_their_key(root: Path) -> None:
    ours = twins("t5", root)[1]
    ids = jnp.asarray(sources("t5")[0].numpy())
    settings = {"max_new_tokens": 6, "do_sample": True, "num_beams": 3, "num_return_sequences": 2}
    one, same = (ours.generate(ids, prng_key=jax.random.key(5), **settings) for _ in range(2))
    assert one.sequences.shape[0] == one.scores.shape[0] == 6
    assert np.array_equal(one.sequences, same.sequences)


def test_bucket_source_batch_and_compilation_change_no_token(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = twins("roberta-roberta", root)
    ids, mask = sources("roberta-roberta")
    settings = {"max_new_tokens": 10, "num_beams": 2}
    expected = theirs.generate(ids, attention_mask=mask, **settings).tolist()
    arrays, masks = jnp.asarray(ids.numpy()), jnp.asarray(mask.numpy())
    assert ours.generate(arrays, **settings).sequences.tolist() == expected  # the mask is read from the pads
    encoded = ours.encode(arrays, masks)
    given = ours.generate(arrays, attention_mask=masks, encoder_outputs=encoded, **settings)
    assert given.sequences.tolist() == expected
    monkeypatch.setattr(ours, "bucket_size", 1)
    assert ours.generate(arrays, attention_mask=masks, **settings).sequences.tolist() == expected
    eager = ours.generate(arrays, attention_mask=masks, trace=False, max_new_tokens=5)
    assert eager.sequences.tolist() == theirs.generate(ids, attention_mask=mask, max_new_tokens=5).tolist()


def test_a_prefix_of_the_target_padded_on_the_left_is_continued(root: Path) -> None:
    prefix = torch.tensor([[9, 20, 21], [3, 9, 30], [3, 3, 9]])
    theirs, ours = twins("bert-bert", root)
    ids, mask = sources("bert-bert")
    settings = {"max_new_tokens": 6, "repetition_penalty": 1.5}
    given = {"attention_mask": mask, "decoder_input_ids": prefix, "decoder_attention_mask": (prefix != 3).long()}
    expected = theirs.generate(ids, **given, **settings)
    found = ours.generate(ids.numpy(), **{name: x.numpy() for name, x in given.items()}, **settings)
    assert found.sequences.tolist() == expected.tolist()


def test_another_length_runs_the_same_program(root: Path) -> None:
    from conjoin.jax.programs import generate_jit

    ours = twins("bert-gpt2", root)[1]
    ids = jnp.asarray(sources("bert-gpt2")[0].numpy())
    ours.generate(ids, max_new_tokens=5)
    before = generate_jit._cache_size()
    lengths = [
        ours.generate(ids[:, :width], max_new_tokens=n, eos_token_id=None).sequences.shape[1]
        for width, n in ((5, 9), (6, 11))
    ]
    assert lengths and generate_jit._cache_size() == before


@pytest.mark.parametrize("name", lanes(["bert-gpt2", "bert-bert"], lambda name: name == "bert-gpt2"))
def test_changed_parameters_are_read_in_place_of_copies_of_the_old(name: str, root: Path) -> None:
    ours, ids = FlaxEncoderDecoderModel.from_pretrained(folder(name, root)), sources(name)[0].numpy()
    other = {key: -value if value.ndim == 2 else value for key, value in ours.flat_params.items()}

    def written(**keywords: Any) -> list[Any]:
        return ours.generate(ids, max_new_tokens=6, **keywords).sequences.tolist()

    first, alone = written(), ours.generate(ids[:1], max_new_tokens=6, params=other).sequences[0].tolist()
    changed = written(params=other)
    assert changed[0][: len(alone)] == alone and changed != first
    assert written() == first
    ours.params = other
    assert written() == changed


def test_the_callers_own_processor_runs_and_what_is_not_possible_says_so(root: Path) -> None:
    ours = twins("bert-gpt2", root)[1]
    ids = jnp.asarray(sources("bert-gpt2")[0].numpy())

    def only(given: Any, scores: Any, length: Any) -> Any:
        return jnp.where(jnp.arange(scores.shape[1]) == 30, 0.0, -jnp.inf)[None] + 0 * scores

    forced = ours.generate(ids, max_new_tokens=3, logits_processor=[only]).sequences
    assert (np.asarray(forced)[:, 1:] == 30).all()
    scores = {"output_scores": True, "return_dict_in_generate": True}
    for wrong in ({"penalty_alpha": 0.5, "top_k": 4}, scores, {"cache_implementation": "quantized"}):
        with pytest.raises(GenerationError, match="Not possible on JAX"):
            ours.generate(ids, max_new_tokens=3, **wrong)
    with pytest.raises(GenerationError, match="streamer"):
        ours.generate(ids, max_new_tokens=3, streamer=object())
    with pytest.raises(GenerationError, match="watermarking_config"):
        ours.generate(ids, max_new_tokens=3, watermarking_config={"bias": 1.0})


def _ends_at(length: int, value: float) -> Any:
    return lambda ids, scores, at: jnp.where(at == length, value, scores)


ROWS: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"do_sample": True}, {"num_beams": 3, "do_sample": True}]


@pytest.mark.parametrize("kind", lanes(ROWS, lambda kind: "do_sample" not in kind), ids=str)
def test_a_row_without_a_token_left_is_an_error(kind: dict[str, Any], root: Path) -> None:
    ours = twins("bert-gpt2", root)[1]
    ids = jnp.asarray(sources("bert-gpt2")[0].numpy())
    for value, told in ((-jnp.inf, "token 2: no token is left: logits_processor"), (jnp.nan, "scores are not numbers")):
        with pytest.raises(GenerationError, match=f"source 0, .*{told}"):
            ours.generate(ids, max_new_tokens=4, logits_processor=[_ends_at(2, value)], **kind)
    with pytest.raises(GenerationError, match="min_new_tokens = 3 and suppress_tokens"):
        every = [word for word in range(53) if word != generate_models.EOS]
        ours.generate(ids, max_new_tokens=4, suppress_tokens=every, min_new_tokens=3, **kind)


def test_beams_return_what_they_found_and_no_more(root: Path) -> None:
    ours = twins("bert-gpt2", root)[1]
    ids = jnp.asarray(sources("bert-gpt2")[0].numpy())
    asked = {"max_new_tokens": 1, "num_beams": 4, "num_return_sequences": 4}
    left = [word for word in range(53) if word not in (20, 30)]
    with pytest.warns(ConjoinWarning, match="Fewer results than num_return_sequences = 4: source 0 has 2"):
        found = ours.generate(ids, **asked, suppress_tokens=left)
    assert found.results_per_source.tolist() == [2] * len(ids) and len(found.sequences) == len(found.scores) == 6
    assert all({*row} == {20, 30} for row in np.asarray(found.sequences)[:, 1].reshape(-1, 2).tolist())
    assert (found.scores > -100).all()
