"""The calls that transformers 4 documents of its FlaxEncoderDecoderModel, each against PyTorch on the same files."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import generate_models
from conjoin import EncoderDecoderModel, FlaxEncoderDecoderModel
from conjoin.errors import ConjoinWarning, GenerationError, ShapeError, WeightError
from generate_models import sources
from jax_models import assert_close
from lanes import lanes
from pairs import LLAMA, SOURCE, fresh, stir

NAMES = ("bert-bert", "bert-gpt2", "t5", "bert-llama")
Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documented")


@cache
def twins(name: str, root: Path) -> tuple[EncoderDecoderModel, FlaxEncoderDecoderModel]:
    torch.manual_seed(0)
    theirs = stir(fresh(SOURCE, LLAMA)) if name == "bert-llama" else generate_models.models(name)[0]
    theirs.save_pretrained(root / name)
    return theirs, FlaxEncoderDecoderModel.from_pretrained(root / name)


def given(name: str) -> Arrays:
    ids, mask = sources("bert-bert" if name == "bert-llama" else name)
    written = np.random.default_rng(0).integers(10, 53, (3, 5))
    return {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "decoder_input_ids": written}


def stepwise(model: FlaxEncoderDecoderModel, g: Arrays) -> Any:
    """The loop in the documentation of `decode` and `init_cache`: a mask of all room, positions, one step at a time."""
    encoded = model.encode(g["input_ids"], g["attention_mask"])
    cache, mask = model.init_cache(batch_size=3, max_length=8, encoder_outputs=encoded), np.ones((3, 8), np.int32)
    steps: list[Any] = []
    for at in range(5):
        output = model.decode(
            g["decoder_input_ids"][:, at : at + 1],
            encoded,
            encoder_attention_mask=g["attention_mask"],
            decoder_attention_mask=mask,
            decoder_position_ids=np.full((3, 1), at),
            past_key_values=cache,
        )
        cache = output.past_key_values
        steps.append(output.logits)
    return jnp.concatenate(steps, 1)


def in_jit(model: FlaxEncoderDecoderModel, g: Arrays) -> Any:
    return jax.jit(lambda params, batch: model(**batch, params=params).logits)(model.params, g)


CALLS: dict[str, Callable[[FlaxEncoderDecoderModel, Arrays], Any]] = {
    "by place": lambda m, g: m(g["input_ids"], g["attention_mask"], g["decoder_input_ids"]).logits,
    "lists": lambda m, g: m(**{name: x.tolist() for name, x in g.items()}).logits,
    "jax arrays and a bool mask": lambda m, g: m(
        **{name: jnp.asarray(x, bool if name == "attention_mask" else None) for name, x in g.items()}
    )["logits"],
    "a mask of floats": lambda m, g: m(**{**g, "attention_mask": g["attention_mask"].astype(np.float32)})[0],
    "a tuple": lambda m, g: m(**g, return_dict=False)[0],
    "numpy's parameters": lambda m, g: m(**g, params=jax.tree.map(np.asarray, m.params)).logits,
    "in jit": in_jit,
    "training without dropout": lambda m, g: m(**g, train=True, dropout_rng=jax.random.PRNGKey(0)).logits,
    "encode, decode": lambda m, g: (
        m.decode(g["decoder_input_ids"], m.encode(g["input_ids"], g["attention_mask"]), g["attention_mask"]).logits
    ),
    "decode of a tuple": lambda m, g: m.decode(
        g["decoder_input_ids"],
        m.encode(g["input_ids"], g["attention_mask"], return_dict=False),
        encoder_attention_mask=g["attention_mask"],
        return_dict=False,
    )[0],
    "decode of a dict": lambda m, g: (
        m.decode(
            g["decoder_input_ids"], dict(m.encode(g["input_ids"], g["attention_mask"])), g["attention_mask"]
        ).logits
    ),
    "step by step": stepwise,
}


@pytest.mark.parametrize("name", lanes(NAMES, lambda name: name == "bert-gpt2"))
def test_every_documented_call_gives_torchs_numbers(name: str, root: Path) -> None:
    theirs, ours = twins(name, root)
    g = given(name)
    with torch.no_grad():
        expected = theirs(**{key: torch.tensor(x) for key, x in g.items()}).logits
    for told, call in CALLS.items():
        if name == "bert-gpt2" or told in ("by place", "in jit", "step by step"):
            assert_close(call(ours, g), expected)


def test_masks_of_every_form_are_torchs(root: Path) -> None:
    theirs, ours = twins("bert-bert", root)
    g = given("bert-bert")
    masks = {"left": np.flip(g["attention_mask"], 1).copy(), "holes": np.array([[1, 0, 0, 1, 1, 0, 1]] * 3)}
    masks["none read"] = g["attention_mask"] * np.array([[1], [0], [1]])
    for mask in masks.values():
        changed = {**g, "attention_mask": mask}
        with torch.no_grad():
            expected = theirs(**{key: torch.tensor(x) for key, x in changed.items()}).logits
        assert_close(ours(**changed).logits, expected)
    alone = {name: x[:1, :1] for name, x in g.items()}
    with torch.no_grad():
        expected = theirs(**{key: torch.tensor(x) for key, x in alone.items()}).logits
    assert_close(ours(**alone).logits, expected)


def set_inside(model: FlaxEncoderDecoderModel, g: Arrays) -> Any:
    """transformers' examples set model.params in the function that they hand to pmap."""
    before = model.params

    def step(params: Any, ids: Any, mask: Any) -> Any:
        model.params = params
        return model.generate(ids, attention_mask=mask, max_new_tokens=8).sequences

    try:
        return jax.jit(step)(before, g["input_ids"], g["attention_mask"])
    finally:
        model.params = before


def generated_in_jit(model: FlaxEncoderDecoderModel, g: Arrays) -> Any:
    def step(params: Any, ids: Any, mask: Any) -> Any:
        return model.generate(ids, attention_mask=mask, params=params, max_new_tokens=8).sequences

    return jax.jit(step)(model.params, g["input_ids"], g["attention_mask"])


WRITTEN: dict[str, Callable[[FlaxEncoderDecoderModel, Arrays], Any]] = {
    "inputs=": lambda m, g: (
        m.generate(inputs=g["input_ids"], attention_mask=g["attention_mask"], max_new_tokens=8).sequences
    ),
    "lists": lambda m, g: m.generate(
        g["input_ids"].tolist(), attention_mask=g["attention_mask"].tolist(), max_new_tokens=8
    )["sequences"],
    "max_length": lambda m, g: m.generate(g["input_ids"], attention_mask=g["attention_mask"], max_length=9).sequences,
    "params=": lambda m, g: m.generate(**_source(g), params=m.params, max_new_tokens=8).sequences,
    "encoder_outputs=": lambda m, g: (
        m.generate(
            encoder_outputs=m.encode(**_source(g)), attention_mask=g["attention_mask"], max_new_tokens=8
        ).sequences
    ),
    "in jit": generated_in_jit,
    "params set inside": set_inside,
}


def _source(g: Arrays) -> Arrays:
    return {name: g[name] for name in ("input_ids", "attention_mask")}


def padded(ids: Any, length: int, pad: int) -> list[list[int]]:
    return [[*row, *[pad] * (length - len(row))] for row in np.asarray(ids).tolist()]


@pytest.mark.parametrize("name", lanes(NAMES, lambda name: name == "bert-gpt2"))
def test_every_documented_way_to_generate_writes_torchs_tokens(name: str, root: Path) -> None:
    theirs, ours = twins(name, root)
    g = given(name)
    source = {key: torch.tensor(x) for key, x in _source(g).items()}
    expected = padded(theirs.generate(**source, max_new_tokens=8), 9, generate_models.PAD)
    for told, call in WRITTEN.items():
        if name == "bert-gpt2" or told in ("inputs=", "in jit"):
            assert padded(call(ours, g), 9, generate_models.PAD) == expected, told


@pytest.mark.slow
def test_beams_and_sampling_run_inside_the_callers_jit(root: Path) -> None:
    theirs, ours = twins("bert-gpt2", root)
    g = _source(given("bert-gpt2"))
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}
    expected = theirs.generate(**{key: torch.tensor(x) for key, x in g.items()}, **beams)
    found = jax.jit(lambda batch: ours.generate(**batch, **beams))(g)
    assert padded(found.sequences, 7, generate_models.PAD) == padded(expected, 7, generate_models.PAD)
    outside = ours.generate(**g, **beams)
    np.testing.assert_allclose(found.scores, outside.scores, rtol=1e-5)
    draw = {"do_sample": True, "top_k": 5, "max_new_tokens": 6}
    drawn = jax.jit(lambda batch, key: ours.generate(**batch, **draw, prng_key=key).sequences)(g, jax.random.key(3))
    again = ours.generate(**g, **draw, prng_key=jax.random.key(3)).sequences
    assert padded(drawn, 7, generate_models.PAD) == padded(again, 7, generate_models.PAD)
    with pytest.raises(GenerationError, match=r"In a jitted function.*it got decoder_input_ids"):
        jax.jit(lambda ids: ours.generate(ids, decoder_input_ids=ids))(g["input_ids"])


def test_an_output_is_a_mapping_of_what_is_there(root: Path) -> None:
    output = twins("bert-bert", root)[1](**given("bert-bert"))
    assert list(output) == [name for name, _ in output.items()] == ["logits", "encoder_last_hidden_state"]
    assert "logits" in output and "loss" not in output and len(output) == len(output.values()) == 2
    assert output.get("loss") is None and output[0] is output["logits"] is output.get("logits")
    with pytest.raises(KeyError, match="this output has logits"):
        output["loss"]


def test_the_config_says_whether_a_call_returns_a_tuple(root: Path) -> None:
    ours, g = twins("bert-bert", root)[1], given("bert-bert")
    ours.config.return_dict = False
    try:
        assert isinstance(ours(**g), tuple) and isinstance(ours.encode(g["input_ids"]), tuple)
        assert ours(**g, return_dict=True).logits.shape[:2] == (3, 5)
    finally:
        ours.config.return_dict = True


IDS = np.full((2, 4), 15)
ENDED: dict[str, tuple[Callable[[FlaxEncoderDecoderModel], Any], type[Exception], str]] = {
    "a mask of one row": (
        lambda m: m(IDS, np.ones((1, 4), int), IDS),
        ShapeError,
        r"attention_mask has shape \(1, 4\); expected \(2, 4\)",
    ),
    "a mask too short": (lambda m: m(IDS, None, IDS, np.ones((2, 3), int)), ShapeError, r"decoder_attention_mask has"),
    "a mask of three axes": (lambda m: m(IDS, np.ones((2, 4, 4), int), IDS), ShapeError, r"\(2, 4, 4\)"),
    "a mask that is added": (
        lambda m: m(IDS, np.full((2, 4), -1e9), IDS),
        ShapeError,
        "attention_mask holds numbers from -1000000000.0",
    ),
    "a mask of generate": (
        lambda m: m.generate(IDS, attention_mask=np.ones((1, 4), int), max_new_tokens=2),
        ShapeError,
        r"attention_mask has shape \(1, 4\)",
    ),
    "positions": (lambda m: m(IDS, None, IDS, position_ids=IDS + 99), ShapeError, "position_ids: 114 to 114, but bert"),
    "target positions": (
        lambda m: m(IDS, None, IDS, decoder_position_ids=IDS + 99),
        ShapeError,
        "decoder_position_ids: 114 to 114",
    ),
    "positions too few": (lambda m: m(IDS, None, IDS, position_ids=IDS[:, :3]), ShapeError, "position_ids has shape"),
    "token types": (lambda m: m(IDS, None, IDS, token_type_ids=-IDS), ShapeError, "token_type_ids: -15 to -15"),
    "vectors too wide": (
        lambda m: m(inputs_embeds=np.ones((2, 4, 99)), decoder_input_ids=IDS),
        ShapeError,
        "word vectors",
    ),
    "ids of decode": (lambda m: m.decode(IDS + 99, m.encode(IDS)), ShapeError, "decoder_input_ids: 114 to 114"),
    "a mask of decode": (
        lambda m: m.decode(IDS, m.encode(IDS), np.ones((2, 3), int)),
        ShapeError,
        r"attention_mask has shape \(2, 3\); expected \(2, 4\)",
    ),
    "a mask of a cache": (
        lambda m: m.decode(IDS, None, np.ones((1, 4), int), past_key_values=m.init_cache(2, 8, m.encode(IDS))),
        ShapeError,
        "as the cache",
    ),
    "parameters left out": (
        lambda m: m(IDS, None, IDS, params={"encoder": m.params["encoder"]}),
        WeightError,
        "decoder.embed.words.weight: missing",
    ),
    "parameters of transformers' nesting": (
        lambda m: m.generate(IDS, params={"params": m.params}, max_new_tokens=2),
        WeightError,
        "encoder.embed.words.weight: missing",
    ),
    "a number as key": (lambda m: m.generate(IDS, do_sample=True, prng_key=0), GenerationError, "jax.random.key"),
    "a number as dropout": (lambda m: m(IDS, None, IDS, train=True, dropout_rng=0), ShapeError, "a key"),
    "a batch in the place of ids": (lambda m: m.generate({"input_ids": IDS}), GenerationError, r"generate\(\*\*batch"),
    "inputs twice": (lambda m: m.generate(IDS, inputs=IDS), GenerationError, "both inputs and input_ids"),
}


@pytest.mark.parametrize("kind", ENDED)
def test_what_cannot_be_says_what_was_expected(kind: str, root: Path) -> None:
    call, error, match = ENDED[kind]
    with pytest.raises(error, match=match):
        call(twins("bert-bert", root)[1])


def test_what_is_done_otherwise_is_named(root: Path) -> None:
    ours = twins("bert-bert", root)[1]
    for name, way in {"encoder": "encode", "resize_token_embeddings": "PyTorch", "module": "nnx"}.items():
        assert not hasattr(ours, name)
        with pytest.raises(AttributeError, match=f"no attribute {name!r}[^$]*hint: .*{way}"):
            getattr(ours, name)


def test_words_of_loading_are_taken_or_said_to_have_no_effect(root: Path) -> None:
    twins("bert-bert", root)
    with pytest.warns(ConjoinWarning, match="seed: no effect"):
        model = FlaxEncoderDecoderModel.from_pretrained(root / "bert-bert", seed=3, input_shape=((1, 1), (1, 1)))
    assert "seed" not in model.config.to_dict() and "input_shape" not in model.config.to_dict()
    narrow = FlaxEncoderDecoderModel.from_pretrained(root / "bert-bert", torch_dtype="bfloat16")
    assert narrow(**given("bert-bert")).logits.dtype == jnp.bfloat16
