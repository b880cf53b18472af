"""The calls that transformers 4 documents of its TFEncoderDecoderModel, each against PyTorch on the same files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from conjoin import EncoderDecoderModel, TFEncoderDecoderModel
from conjoin.errors import ConfigError, GenerationError, ShapeError, TrainingError
from lanes import lanes
from tf_models import assert_close, batch, torch_model

Arrays = dict[str, Any]
NAMES = ("bert-bert", "bert-gpt2", "t5")


@pytest.fixture(name="root", scope="module")
def root_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("documented")
    for name in NAMES:
        torch_model(name).save_pretrained(root / name)
    return root


@pytest.fixture(name="model", scope="module")
def model_fixture(root: Path) -> TFEncoderDecoderModel:
    return TFEncoderDecoderModel.from_pretrained(root / "bert-bert")


def arrays(rows: int = 2) -> Arrays:
    return {name: x.numpy().astype(np.int32) for name, x in batch(rows).items()}


def without(given: Arrays, *names: str) -> Arrays:
    return {name: x for name, x in given.items() if name not in names}


CALLS: dict[str, Callable[[TFEncoderDecoderModel, Arrays], Any]] = {
    "a dict": lambda m, g: m(g).loss,
    "a dict, and labels beside it": lambda m, g: m(without(g, "labels"), labels=g["labels"]).loss,
    "a dict, and a mask by place": lambda m, g: m(without(g, "attention_mask"), g["attention_mask"]).loss,
    "flags in the dict": lambda m, g: m({**g, "output_attentions": True, "return_dict": False})[0],
    "a list": lambda m, g: m([g["input_ids"], g["attention_mask"]], labels=g["labels"]).loss,
    "a tuple of tensors": lambda m, g: (
        m((tf.constant(g["input_ids"]), tf.constant(g["attention_mask"])), labels=g["labels"]).loss
    ),
    "lists of numbers": lambda m, g: m(**{name: x.tolist() for name, x in g.items()}).loss,
    "int64, and a bool mask": lambda m, g: m(
        {name: tf.constant(x, tf.bool if name == "attention_mask" else tf.int64) for name, x in g.items()}
    )["loss"],
    "states in the dict": lambda m, g: (
        m({"encoder_outputs": m.get_encoder()(g["input_ids"], g["attention_mask"]), **without(g, "input_ids")}).loss
    ),
    "a tuple of states": lambda m, g: (
        m(
            encoder_outputs=m.encode(g["input_ids"], attention_mask=g["attention_mask"], return_dict=False),
            **without(g, "input_ids"),
        ).loss
    ),
    "a function of TensorFlow": lambda m, g: tf.function(lambda given: m(given, training=True).loss, autograph=False)(
        g
    ),
}


@pytest.mark.parametrize("name", lanes(NAMES, lambda name: name == "bert-gpt2"))
def test_every_documented_call_gives_torchs_loss(name: str, root: Path) -> None:
    theirs = EncoderDecoderModel.from_pretrained(root / name).eval()
    ours = TFEncoderDecoderModel.from_pretrained(root / name)
    with torch.no_grad():
        expected = theirs(**batch()).loss
    for told, call in CALLS.items():
        if name == "bert-gpt2" or told.startswith("a dict"):
            assert_close(call(ours, arrays()), expected)


def test_what_stands_beside_a_dict_is_read(model: TFEncoderDecoderModel, root: Path) -> None:
    mask = np.ones((2, 6), np.int32)
    mask[0, 3:] = 0
    with torch.no_grad():
        expected = EncoderDecoderModel.from_pretrained(root / "bert-bert")(
            **batch(), decoder_attention_mask=torch.tensor(mask)
        ).loss
    assert_close(model(arrays(), decoder_attention_mask=mask).loss, expected)


def test_masks_of_every_form_are_torchs(model: TFEncoderDecoderModel, root: Path) -> None:
    theirs, given = EncoderDecoderModel.from_pretrained(root / "bert-bert").eval(), batch()
    left, holes = given["attention_mask"].flip(1), given["attention_mask"].clone()
    holes[0, 2:4] = 0
    for mask in (left, holes, given["attention_mask"] * torch.tensor([[1], [0]])):
        changed = {**given, "attention_mask": mask}
        with torch.no_grad():
            expected = theirs(**changed).loss
        assert_close(model({name: x.numpy() for name, x in changed.items()}).loss, expected)


FITS: dict[str, Callable[[Arrays], dict[str, Any]]] = {
    "a pair": lambda g: {"x": without(g, "labels"), "y": g["labels"]},
    "a pair of dicts": lambda g: {"x": without(g, "labels"), "y": {"labels": g["labels"]}},
    "a tuple and labels": lambda g: {"x": (g["input_ids"], g["attention_mask"]), "y": g["labels"]},
    "tf.data of dicts": lambda g: {
        "x": tf.data.Dataset.from_tensor_slices((without(g, "labels"), {"labels": g["labels"]})).batch(4)
    },
    "validation": lambda g: {"x": g, "validation_data": (without(g, "labels"), g["labels"])},
}


@pytest.mark.parametrize("kind", lanes(FITS, lambda kind: kind in ("a pair of dicts", "tf.data of dicts")))
def test_fit_takes_what_keras_takes(kind: str, root: Path) -> None:
    model = TFEncoderDecoderModel.from_pretrained(root / "bert-bert")
    expected = float(model(arrays(4)).loss)
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
    given = FITS[kind](arrays(4))
    sizes = {} if isinstance(given["x"], tf.data.Dataset) else {"batch_size": 4}
    history = model.fit(**given, **sizes, shuffle=False, verbose=0).history
    assert history["loss"] == pytest.approx([expected], rel=1e-5)
    if kind == "validation":
        assert history["val_loss"][0] < expected
        assert model.test_on_batch(arrays(4)) == pytest.approx(history["val_loss"][0], rel=1e-5)


def test_what_would_not_be_computed_is_refused(root: Path) -> None:
    model, given = TFEncoderDecoderModel.from_pretrained(root / "bert-bert"), arrays(4)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for wrong in ({"loss": crossentropy}, {"loss": "mse"}, {"metrics": ["accuracy"]}, {"weighted_metrics": ["mae"]}):
        with pytest.raises(TrainingError, match=f"compile: {next(iter(wrong))}"):
            model.compile("adam", **wrong)
    model.compile("adam", "auto_with_warning", run_eagerly=True)
    weights = np.array([1.0, 0, 0, 0])
    inputs, labels = without(given, "labels"), given["labels"]
    for call in (
        lambda: model.fit(given, sample_weight=weights, verbose=0),
        lambda: model.fit(inputs, labels, sample_weight=weights, verbose=0),
        lambda: model.fit(inputs, labels, class_weight={0: 2.0}, verbose=0),
        lambda: model.evaluate(given, sample_weight=weights, verbose=0),
        lambda: model.train_on_batch(inputs, labels, sample_weight=weights),
        lambda: model.fit(
            tf.data.Dataset.from_tensor_slices((inputs, labels, weights)).batch(4), shuffle=False, verbose=0
        ),
    ):
        with pytest.raises(TrainingError, match="sample_weight and class_weight"):
            call()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, of h5py's arrays
def test_weights_are_saved_and_frozen_as_keras_does_and_whole_files_are_not(root: Path, tmp_path: Path) -> None:
    model = TFEncoderDecoderModel.from_pretrained(root / "bert-bert")
    model.save_weights(tmp_path / "it.weights.h5")
    before = model.all_params()
    for variable in model.variables:
        variable.trainable = variable.trainable and not variable.name.startswith("encoder.")
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.fit(arrays(), verbose=0)
    after = model.all_params()
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"decoder", "enc_to_dec_proj"}
    again = TFEncoderDecoderModel(model.config, seed=1)
    again.load_weights(tmp_path / "it.weights.h5")
    assert all(np.array_equal(x, before[name]) for name, x in again.all_params().items())
    with pytest.raises(ConfigError, match="save_pretrained"):
        model.save(tmp_path / "it.keras")
    with pytest.raises(ConfigError, match="saved_model=True"):
        model.export(tmp_path / "it")
    with pytest.raises(ConfigError, match="takes safe_serialization with saved_model=True only"):
        model.save_pretrained(tmp_path / "out", safe_serialization=False)


@pytest.mark.parametrize("name", lanes(NAMES, "t5".__eq__))
def test_every_documented_way_to_generate_writes_torchs_tokens(name: str, root: Path) -> None:
    theirs = EncoderDecoderModel.from_pretrained(root / name)
    ours = TFEncoderDecoderModel.from_pretrained(root / name)
    source, given = without(arrays(), "labels"), batch()
    expected = theirs.generate(given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=6)
    wide = {n: tf.constant(x, tf.int64) for n, x in source.items()}
    types = {} if name == "t5" else {"token_type_ids": tf.zeros((2, 7), tf.int32)}

    def constants() -> Any:
        return ours.generate(**source, max_new_tokens=6)

    written = [
        ours.generate(inputs=source["input_ids"], attention_mask=source["attention_mask"], max_new_tokens=6),
        tf.function(ours.generate, autograph=False)(**wide, **types, max_new_tokens=6),
    ]
    if name == "bert-gpt2":

        def listed(ids: Any) -> Any:
            return ours.generate(ids, attention_mask=source["attention_mask"].tolist(), max_new_tokens=6)

        written += [
            ours.generate(**wide, **types, max_length=7),
            tf.function(constants, autograph=False)(),
            tf.function(listed, autograph=False)(wide["input_ids"]),
        ]
    length = expected.shape[1]
    for found in written:
        assert found.numpy()[:, :length].tolist() == expected.tolist()
        assert (found.numpy()[:, length:] == theirs.config.pad_token_id).all()


def test_seeds_of_every_form_draw_the_same(model: TFEncoderDecoderModel) -> None:
    ids, draw = arrays()["input_ids"], {"do_sample": True, "max_new_tokens": 5}
    drawn = [
        model.generate(ids, seed=seed, **draw).numpy().tolist() for seed in (7, np.int64(7), [0, 7], tf.constant(7))
    ]
    assert drawn[1:] == drawn[:1] * 3
    with pytest.raises(GenerationError, match="seed has shape"):
        model.generate(ids, seed=(1, 2, 3), **draw)


IDS = np.full((2, 4), 15)
ENDED: dict[str, tuple[Callable[[TFEncoderDecoderModel], Any], type[Exception], str]] = {
    "a mask of one row": (
        lambda m: m(IDS, np.ones((1, 4), int), IDS),
        ShapeError,
        r"attention_mask has shape \(1, 4\); expected \(2, 4\)",
    ),
    "a mask of one column": (
        lambda m: m(IDS, None, IDS, np.ones((2, 1), int)),
        ShapeError,
        r"decoder_attention_mask has shape \(2, 1\)",
    ),
    "a mask that is added": (lambda m: m(IDS, np.full((2, 4), -1e9), IDS), ShapeError, "attention_mask holds numbers"),
    "a mask of generate": (
        lambda m: m.generate(IDS, attention_mask=np.ones((1, 4), int), max_new_tokens=2),
        ShapeError,
        r"attention_mask has shape \(1, 4\)",
    ),
    "positions": (lambda m: m(IDS, None, IDS, position_ids=IDS + 99), ShapeError, "position_ids: 114 to 114, but bert"),
    "token types": (lambda m: m(IDS, None, IDS, token_type_ids=IDS), ShapeError, "token_type_ids: 15 to 15"),
    "vectors too wide": (
        lambda m: m(inputs_embeds=np.ones((2, 4, 99), np.float32), decoder_input_ids=IDS),
        ShapeError,
        "word vectors",
    ),
    "ragged rows": (lambda m: m(tf.ragged.constant([[5], [6, 7]]), decoder_input_ids=IDS), ShapeError, "is ragged"),
    "an input that is not there": (
        lambda m: m({"input_ids": IDS, "special_tokens_mask": IDS}, decoder_input_ids=IDS),
        TypeError,
        "takes no special_tokens_mask",
    ),
    "labels twice": (
        lambda m: m({"input_ids": IDS, "labels": IDS}, labels=IDS),
        TypeError,
        "got labels twice",
    ),
    "a batch in the place of ids": (lambda m: m.generate({"input_ids": IDS}), GenerationError, r"generate\(\*\*batch"),
    "a prefix in a function": (
        lambda m: tf.function(lambda x: m.generate(x, decoder_input_ids=x), autograph=False)(tf.constant(IDS)),
        GenerationError,
        "Inside a tf.function.*it got decoder_input_ids",
    ),
}


@pytest.mark.parametrize("kind", ENDED)
def test_what_cannot_be_says_what_was_expected(kind: str, model: TFEncoderDecoderModel) -> None:
    call, error, match = ENDED[kind]
    with pytest.raises(error, match=match):
        call(model)


def test_what_is_done_otherwise_is_named(model: TFEncoderDecoderModel) -> None:
    for name, way in {"encoder": "trainable", "prepare_tf_dataset": "tf.data", "serving": "saved_model=True"}.items():
        assert not hasattr(model, name)
        with pytest.raises(AttributeError, match=f"no attribute {name!r}[^$]*hint: .*{way}"):
            getattr(model, name)


def test_the_config_says_whether_a_call_returns_a_tuple(root: Path) -> None:
    model = TFEncoderDecoderModel.from_pretrained(root / "bert-bert", return_dict=False)
    given = arrays()
    assert isinstance(model(given), tuple) and model(given, return_dict=True).logits.shape == (2, 6, 53)
    model.compile("sgd", run_eagerly=True)
    assert model.evaluate(given, verbose=0) == pytest.approx(float(model(given)[0]), rel=1e-5)
