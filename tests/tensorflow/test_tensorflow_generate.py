"""generate on TensorFlow: the tokens of the PyTorch backend, however it is run."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

from conjoin import EncoderDecoderModel, TFEncoderDecoderModel
from conjoin.errors import ConjoinWarning, GenerationError, ShapeError
from conjoin.functional.processors import ProcessorContext, build_processors
from conjoin.tensorflow.ops import OPS
from conjoin.torch.generation.processors.build import build_processors as build_torch
from generation_requests import request_of
from lanes import lanes
from tf_models import batch, torch_model

NAMES = ("bert-bert", "bert-gpt2", "t5")
GREEDY: dict[str, Any] = {"max_new_tokens": 9}
BEAMS: dict[str, Any] = {"max_new_tokens": 7, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0}
KINDS = {"greedy": GREEDY, "beams": BEAMS}


@pytest.fixture(name="root", scope="module")
def root_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generate")


@cache
def folder(name: str, root: Path) -> Path:
    torch_model(name).save_pretrained(root / name)
    return root / name


@cache
def twins(name: str, root: Path) -> tuple[EncoderDecoderModel, TFEncoderDecoderModel]:
    return torch_model(name), TFEncoderDecoderModel.from_pretrained(folder(name, root))


def sources(name: str, rows: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    made = batch(rows, seed)
    return made["input_ids"].masked_fill(made["attention_mask"] == 0, 3 if name == "t5" else 4), made["attention_mask"]


@contextmanager
def eagerly() -> Iterator[None]:
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def expect_equal(name: str, root: Path, seed: int = 0, **settings: Any) -> list[list[int]]:
    """Both backends write the same; returns what."""
    theirs, ours = twins(name, root)
    ids, mask = sources(name, 3, seed)
    expected = theirs.generate(ids, attention_mask=mask, **settings).tolist()
    found = ours.generate(ids.numpy(), attention_mask=mask.numpy(), **settings)
    assert found.numpy().tolist() == expected
    return expected


@pytest.mark.parametrize(
    ("name", "kind"),
    lanes(product(NAMES, KINDS), [("bert-bert", "greedy"), ("bert-gpt2", "beams"), ("t5", "greedy")].__contains__),
)
def test_every_model_writes_what_torch_writes(name: str, kind: str, root: Path) -> None:
    for seed in range(3):
        expect_equal(name, root, seed, **KINDS[kind])


@pytest.mark.parametrize("kind", lanes(KINDS, lambda kind: kind == "greedy"))
def test_eager_traced_compiled_and_inside_a_function_are_the_same(kind: str, root: Path) -> None:
    settings: dict[str, Any] = {**KINDS[kind], "max_new_tokens": 5}
    name = "bert-gpt2"
    ours, (ids, mask) = twins(name, root)[1], sources(name)
    expected = expect_equal(name, root, **settings)
    given = {"input_ids": tf.constant(ids.numpy()), "attention_mask": tf.constant(mask.numpy())}
    assert ours.generate(**given, jit_compile=True, **settings).numpy().tolist() == expected
    with eagerly():
        assert ours.generate(**given, **settings).numpy().tolist() == expected
    for jit_compile in (False, True):
        inside = tf.function(lambda given: ours.generate(**given, **settings), jit_compile=jit_compile, autograph=False)
        found = inside(given).numpy()
        assert found.shape[1] == settings["max_new_tokens"] + 1
        width = len(expected[0])
        assert found[:, :width].tolist() == expected and (found[:, width:] == 3).all()


@pytest.mark.parametrize("name", lanes(["bert-gpt2", "bert-bert"], lambda name: name == "bert-gpt2"))
def test_a_compiled_program_reads_variables_as_they_are_now(name: str, root: Path) -> None:
    ours, ids = TFEncoderDecoderModel.from_pretrained(folder(name, root)), sources(name)[0].numpy()

    def written(**keywords: Any) -> list[Any]:
        return ours.generate(ids, max_new_tokens=6, **keywords).numpy().tolist()

    first = written(jit_compile=True)
    assert first == written()
    for variable in ours.trainable_variables:
        if len(variable.shape) == 2:
            variable.assign(-variable)
    assert written(jit_compile=True) == written() != first


PROCESSED: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "bad_words_ids": [[20], [21, 22]]},
    {"encoder_no_repeat_ngram_size": 1, "encoder_repetition_penalty": 1.5, "suppress_tokens": [11, 12], "num_beams": 2},
    {
        "forced_eos_token_id": 9,
        "sequence_bias": {(30,): 2.0, (31, 32): 4.0},
        "num_beams": 2,
        "early_stopping": True,
    },
    {"exponential_decay_length_penalty": (3, 1.3), "eos_token_id": [7, 19, 33], "renormalize_logits": True},
]


@pytest.mark.parametrize("settings", PROCESSED, ids=lambda s: next(iter(s)))
def test_settings_give_torchs_tokens(settings: dict[str, Any], root: Path) -> None:
    expect_equal("bert-bert", root, **settings, max_new_tokens=8)


WARPERS: list[dict[str, Any]] = [
    {"top_k": 7, "temperature": 0.7},
    {"top_k": 0, "top_p": 0.6},
    {"top_k": 0, "min_p": 0.2},
    {"top_k": 0, "typical_p": 0.5},
    {"top_k": 0, "epsilon_cutoff": 0.02},
    {"top_k": 0, "eta_cutoff": 0.02},
    {"top_k": 0, "top_h": 0.6},
]


@pytest.mark.parametrize("settings", WARPERS, ids="-".join)
def test_a_distribution_is_shaped_as_in_torch(settings: dict[str, Any]) -> None:
    plan = request_of(do_sample=True, **settings).plan
    torch.manual_seed(0)
    scores, ids = torch.randn(4, 53) * 3, torch.randint(0, 53, (4, 6))
    expected = build_torch(plan, source_ids=ids, source_mask=torch.ones(4, 6, dtype=torch.bool))(ids, scores)
    process = build_processors(OPS, plan, ProcessorContext())
    assert process is not None
    found = process(tf.constant(np.pad(ids.numpy(), [(0, 0), (0, 3)])), tf.constant(6), tf.constant(scores.numpy()))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_drawn_follows_the_seed(root: Path) -> None:
    ours, (ids, _) = twins("bert-gpt2", root)[1], sources("bert-gpt2")
    settings = {"max_new_tokens": 6, "do_sample": True, "top_k": 20, "num_return_sequences": 4, "eos_token_id": None}
    one, same, other = (ours.generate(ids.numpy(), seed=seed, **settings).numpy().tolist() for seed in (1, 1, 2))
    assert one == same != other and len(one) == 12
    free = [ours.generate(ids.numpy(), **settings).numpy().tolist() for _ in range(2)]
    assert free[0] != free[1]
    beams = ours.generate(ids.numpy(), seed=1, num_beams=2, do_sample=True, max_new_tokens=4)
    assert beams.shape[0] == 3


@pytest.mark.slow
def test_what_a_compiled_program_draws_follows_the_seed(root: Path) -> None:
    ours, (ids, _) = twins("bert-gpt2", root)[1], sources("bert-gpt2")
    settings = {"max_new_tokens": 6, "do_sample": True, "top_k": 20, "num_return_sequences": 4, "eos_token_id": None}
    one, same, other = (
        ours.generate(ids.numpy(), seed=seed, jit_compile=True, **settings).numpy().tolist() for seed in (1, 1, 2)
    )
    assert one == same != other and len(one) == 12  # XLA has other random numbers


def test_sources_may_be_encoded_before_and_targets_begun(root: Path) -> None:
    theirs, ours = twins("bert-bert", root)
    ids, mask = sources("bert-bert")
    expected = theirs.generate(ids, attention_mask=mask, **BEAMS).tolist()
    encoded = ours.encode(ids.numpy(), mask.numpy())
    found = ours.generate(attention_mask=mask.numpy(), encoder_outputs=encoded, **BEAMS)
    assert found.numpy().tolist() == expected
    assert ours.generate(ids.numpy(), **BEAMS).numpy().tolist() == expected  # the mask is read from the pads
    prefix = torch.tensor([[9, 20, 21], [3, 9, 30], [3, 3, 9]])
    more = {"attention_mask": mask, "decoder_input_ids": prefix, "decoder_attention_mask": (prefix != 3).long()}
    expected = theirs.generate(ids, **more, max_new_tokens=5, repetition_penalty=1.5).tolist()
    given = {name: x.numpy() for name, x in more.items()}
    found = ours.generate(ids.numpy(), **given, max_new_tokens=5, repetition_penalty=1.5)
    assert found.numpy().tolist() == expected


def test_one_trace_serves_every_batch_and_length(root: Path) -> None:
    theirs, ours = twins("bert-gpt2", root)
    ids = sources("bert-gpt2", 4)[0]
    ours.generate(ids.numpy(), max_new_tokens=5)
    before = len(ours.programs.held)
    for rows, width, new in ((1, 5, 9), (4, 7, 11)):
        expected = theirs.generate(ids[:rows, :width], max_new_tokens=new).tolist()
        assert ours.generate(ids[:rows, :width].numpy(), max_new_tokens=new).numpy().tolist() == expected
    assert len(ours.programs.held) <= before + 1  # with a mask, and without


def test_scores_come_where_they_are_asked_for_and_what_is_not_possible_says_so(root: Path) -> None:
    theirs, ours = twins("bert-gpt2", root)
    ids = sources("bert-gpt2")[0]
    asked = {**BEAMS, "return_dict_in_generate": True}
    found, expected = ours.generate(ids.numpy(), **asked), theirs.generate(ids, **asked, output_scores=True)
    np.testing.assert_allclose(found.sequences_scores, expected.sequences_scores.numpy(), rtol=1e-4)
    scores = {"output_scores": True, "return_dict_in_generate": True}
    for wrong in ({"penalty_alpha": 0.5, "top_k": 4}, scores, {"cache_implementation": "quantized"}):
        with pytest.raises(GenerationError, match="Not possible on TensorFlow"):
            ours.generate(ids.numpy(), max_new_tokens=3, **wrong)
    with pytest.raises(GenerationError, match="watermarking_config"):
        ours.generate(ids.numpy(), max_new_tokens=3, watermarking_config={"bias": 1.0})


_RELOAD = """
import json, sys
sys.modules["conjoin"] = None
import tensorflow as tf
folder, ids, mask, target = json.loads(sys.argv[1])
program = tf.saved_model.load(folder)
both = {"input_ids": tf.constant(ids), "attention_mask": tf.constant(mask)}
written = program.signatures["generate"](**both)["sequences"]
wide = program.signatures["int64_generate"](**{n: tf.cast(x, tf.int64) for n, x in both.items()})["sequences"]
more = {"decoder_input_ids": tf.constant(target), "decoder_attention_mask": tf.ones_like(target)}
logits = program.signatures["serving_default"](**both, **more)["logits"]
print(json.dumps([written.numpy().tolist(), wide.numpy().tolist(), logits.numpy().tolist()]))
"""


EXPORTED = {"greedy": GREEDY, "beams": {"max_new_tokens": 7, "num_beams": 3}}


@pytest.mark.parametrize("kind", lanes(EXPORTED, lambda kind: kind == "greedy"))
def test_an_exported_program_writes_the_same_without_conjoin(kind: str, root: Path) -> None:
    import json

    settings = EXPORTED[kind]
    theirs, ours = twins("bert-gpt2", root)
    ids, mask = sources("bert-gpt2", 2)
    expected = theirs.generate(ids, attention_mask=mask, **settings)
    folder = root / f"exported-{len(settings)}"
    ours.save_pretrained(folder, saved_model=True, **settings)
    told = json.dumps([str(folder / "saved_model" / "1"), ids.tolist(), mask.tolist(), expected.tolist()])
    run = subprocess.run([sys.executable, "-c", _RELOAD, told], check=True, capture_output=True, text=True, cwd=root)
    written, wide, logits = json.loads(run.stdout.splitlines()[-1])
    assert written == wide == expected.tolist()
    with torch.no_grad():
        scores = theirs(ids, mask, expected, torch.ones_like(expected), use_cache=False).logits
    np.testing.assert_allclose(logits, scores.numpy(), rtol=1e-4, atol=1e-5)
    assert EncoderDecoderModel.from_pretrained(folder).config.decoder_start_token_id == 9


def _ends_at(length: int, value: float) -> Any:
    return lambda ids, scores, at: tf.where(at == length, value, scores)


LEFT = {"none": (-np.inf, "token 2: no token is left: logits_processor"), "nan": (np.nan, "scores are not numbers")}


@pytest.mark.parametrize(
    ("beams", "left", "compiled"),
    lanes(product((1, 3), LEFT, (False, True)), [(1, "none", True), (1, "nan", False)].__contains__),
)
def test_a_row_without_a_token_left_is_an_error(beams: int, left: str, compiled: bool, root: Path) -> None:
    ours = twins("bert-gpt2", root)[1]
    ids = sources("bert-gpt2")[0].numpy()
    value, told = LEFT[left]
    with pytest.raises(GenerationError, match=f"source 0, .*{told}"):
        processors = [_ends_at(2, value)]
        ours.generate(ids, max_new_tokens=4, num_beams=beams, logits_processor=processors, jit_compile=compiled)


@pytest.mark.slow
def test_a_row_without_a_token_left_is_told_inside_a_function(root: Path) -> None:
    ours = twins("bert-gpt2", root)[1]
    ids = tf.constant(sources("bert-gpt2")[0].numpy(), tf.int32)

    def write(given: Any) -> Any:
        return ours.generate(given, max_new_tokens=4, logits_processor=[_ends_at(2, -np.inf)])

    with pytest.raises(tf.errors.InvalidArgumentError, match="Generation cannot go on"):
        tf.function(write, autograph=False)(ids)
    compiled = tf.function(write, autograph=False, jit_compile=True)(ids).numpy()
    assert (compiled[:, :2] >= 0).all() and (compiled[:, 2:] == -1).all()


def test_beams_return_what_they_found_and_no_more(root: Path) -> None:
    ours = twins("bert-gpt2", root)[1]
    ids = sources("bert-gpt2")[0].numpy()
    left = [word for word in range(53) if word not in (20, 30)]
    asked = {"max_new_tokens": 1, "num_beams": 4, "num_return_sequences": 4, "suppress_tokens": left}
    with pytest.warns(ConjoinWarning, match="Fewer results than num_return_sequences = 4: source 0 has 2"):
        found = ours.generate(ids, **asked, return_dict_in_generate=True)
    assert found["results_per_source"].numpy().tolist() == [2] * len(ids) and len(found["sequences"]) == 6
    assert (found["sequences_scores"].numpy() > -100).all()


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int64])
def test_masks_of_prefixes_may_have_any_dtype(dtype: Any, root: Path) -> None:
    theirs, ours = twins("bert-bert", root)
    ids, mask = sources("bert-bert")
    prefix = np.array([[3, 3, 8], [3, 8, 10], [6, 8, 10]], np.int64)
    real = (prefix != 3).astype(dtype)
    given = {"decoder_input_ids": prefix, "decoder_attention_mask": real}
    expected = theirs.generate(
        ids, attention_mask=mask, **GREEDY, **{name: torch.from_numpy(x) for name, x in given.items()}
    )
    found = ours.generate(ids.numpy(), attention_mask=mask.numpy(), **GREEDY, **given)
    assert np.asarray(found).tolist() == expected.tolist()


def test_ids_of_a_prefix_are_checked(root: Path) -> None:
    ours, (ids, _) = twins("bert-bert", root)[1], sources("bert-bert")
    size = ours.spec.decoder.vocab_size
    with pytest.raises(ShapeError, match=f"decoder_input_ids: .* to {size}, but"):
        ours.generate(ids.numpy(), decoder_input_ids=np.full((len(ids), 2), size), max_new_tokens=4)
