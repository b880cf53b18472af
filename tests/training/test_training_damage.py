"""What lies in a checkpoint is checked before anything trusts it, and none of it is run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from conjoin import ConjoinError, EncoderDecoderModel, FileError, Seq2SeqTrainer, TrainingError
from conjoin.torch.cpu import linear_grad
from conjoin.torch.cpu.linear_grad import Products
from conjoin.training.folder.metrics_log import read_log
from conjoin.training.folder.moments import open_moments
from conjoin.training.folder.pieces import Pieces, Share, write_index, write_rows
from conjoin.training.folder.run_folder import Checkpoint, RunFolder
from conjoin.training.folder.state import DamagedCheckpoint, TrainerState
from conjoin.training.torch.checkpoints import read_random_states
from training_toys import arguments, toy_model, toy_rows, weights


def trainer_of(folder: Path, **changes: Any) -> Seq2SeqTrainer:
    args = arguments(folder / "run", **{"save_steps": 2, "max_steps": 5, "ema_decay": 0.9} | changes)
    return Seq2SeqTrainer(toy_model(folder, dropout=0.1), args=args, train_dataset=toy_rows(24))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 2 and 4; its last one is gone."""
    folder = tmp_path_factory.mktemp("finished")
    trainer_of(folder, save_total_limit=None).train()
    shutil.rmtree(folder / "run" / "checkpoint-5")
    return folder


@pytest.fixture
def newest(finished: Path, tmp_path: Path) -> Path:
    """The newest checkpoint of a copy of it."""
    return shutil.copytree(finished / "run", tmp_path / "run") / "checkpoint-4"


def resume(folder: Path, **changes: Any) -> Any:
    return trainer_of(folder, **changes).train(resume_from_checkpoint=True)


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


class TorchEvil(Evil):
    """The same through a function that torch has in a module of its own."""

    def __reduce__(self) -> tuple[object, ...]:
        import torch.utils._config_module as module

        return getattr(module, "exec", eval), (f"__import__('os').mkdir({str(self.path)!r})",)


@pytest.mark.parametrize("evil", [Evil, TorchEvil])
@pytest.mark.parametrize("whole", [True, False])
def test_no_pickle_in_shards_is_read(whole: bool, evil: type[Evil], newest: Path, tmp_path: Path) -> None:
    (newest / "shards").mkdir()
    (newest / "shards" / ".metadata").write_bytes(pickle.dumps(evil(tmp_path / "ran")))
    if whole:
        resume(tmp_path)
    else:
        (newest / "optimizer.safetensors").unlink()
        with pytest.raises(TrainingError, match=r"checkpoint-4 is damaged(.|\n)*pickles, which may run programs"):
            resume(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_shards_of_a_run_that_is_not_sharded_are_not_read(newest: Path, tmp_path: Path, finished: Path) -> None:
    (newest / "shards").mkdir()
    (newest / "shards" / "index.json").write_text("no")
    resume(tmp_path)
    saved, whole = (EncoderDecoderModel.from_pretrained(folder / "run") for folder in (tmp_path, finished))
    torch.testing.assert_close(weights(saved), weights(whole), rtol=0, atol=0)
    assert not (tmp_path / "run" / "checkpoint-5" / "shards").exists()


def change_moments(checkpoint: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = checkpoint / "optimizer.safetensors"
    held = safetensors.numpy.load_file(path)
    change(held)
    safetensors.numpy.save_file(held, path)


def second(held: dict[str, np.ndarray]) -> str:
    return next(name for name in sorted(held) if name.startswith("second/") and held[name].size > 4)


def put(part: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(held: dict[str, np.ndarray]) -> None:
        held[second(held).replace("second/", part)].reshape(-1)[3] = value

    return change


def turned(held: dict[str, np.ndarray]) -> None:
    held["first/a"] = held.pop(second(held).replace("second/", "first/"))


def each_of_one(held: dict[str, np.ndarray]) -> None:
    for name in held:
        if not name.startswith("updates/"):
            held[name] = np.zeros(1, np.float32)


def swapped(held: dict[str, np.ndarray]) -> None:
    names = sorted((name for name in held if name.startswith("first/")), key=lambda name: held[name].size)
    held[names[0]], held[names[-1]] = held[names[-1]], held[names[0]]


MOMENTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "of one number": (each_of_one, r"first/\S+ is float32 of shape \[1\]; its parameter is float32 of shape"),
    "of another": (swapped, r"first/\S+ is float32 of shape .*; its parameter is float32 of shape"),
    "float64": (lambda held: held.update({second(held): held[second(held)].astype(np.float64)}), "is float64 of shape"),
    "float16": (lambda held: held.update({second(held): held[second(held)].astype(np.float16)}), "is float16 of shape"),
    "whole": (lambda held: held.update({second(held): held[second(held)].astype(np.int32)}), "is int32 of shape"),
    "flat": (lambda held: held.update({second(held): held[second(held)].reshape(-1)[None]}), "is float32 of shape"),
    "first NaN": (put("first/", np.nan), r"first/\S+ holds 1 numbers that are NaN or infinite"),
    "second inf": (put("second/", np.inf), r"second/\S+ holds 1 numbers that are NaN or infinite"),
    "average NaN": (put("average/", np.nan), r"average/\S+ holds 1 numbers that are NaN or infinite"),
    "negative": (put("second/", -1e-12), r"second/\S+ holds 1 negative numbers; means of squares have none"),
    "no first": (lambda held: held.pop(second(held).replace("second/", "first/")), r"first/\S+ is missing"),
    "no second": (lambda held: held.pop(second(held)), r"second/\S+ is missing"),
    "no average": (lambda held: held.pop(second(held).replace("second/", "average/")), r"average/\S+ is missing"),
    "another name": (turned, "first/a is there, though its parameter had no update"),
    "another part": (lambda held: held.update({"third/x": held[second(held)]}), "'third/x' is nothing that an"),
    "updates below 0": (
        lambda held: held.update({second(held).replace("second/", "updates/"): np.array(-1)}),
        r"updates/\S+ is no number of updates",
    ),
    "updates of floats": (
        lambda held: held.update({second(held).replace("second/", "updates/"): np.array(1.0)}),
        r"updates/\S+ is no number of updates",
    ),
}


@pytest.mark.parametrize("damage", MOMENTS)
def test_moments_are_checked_before_the_optimizer_has_them(damage: str, newest: Path) -> None:
    change, told = MOMENTS[damage]
    change_moments(newest, change)
    kinds = {
        name: (tuple(p.shape), "float32") for name, p in EncoderDecoderModel.from_pretrained(newest).named_parameters()
    }
    with (
        pytest.raises(DamagedCheckpoint, match=rf"optimizer\.safetensors: .*{told}"),
        open_moments(newest, kinds, averaged=True),
    ):
        pass


def test_the_error_of_damaged_moments_names_the_older_checkpoint(newest: Path, tmp_path: Path) -> None:
    change_moments(newest, each_of_one)
    with pytest.raises(
        DamagedCheckpoint, match=r"checkpoint-4 is damaged(.|\n)*first/\S+ is float32 of shape"
    ) as caught:
        resume(tmp_path)
    assert f"--resume-from-checkpoint {newest.parent / 'checkpoint-2'}" in str(caught.value)


def test_an_older_checkpoint_with_such_moments_is_not_offered(newest: Path, tmp_path: Path) -> None:
    for step in (2, 4):
        change_moments(newest.with_name(f"checkpoint-{step}"), put("second/", -1.0))
    with pytest.raises(TrainingError, match="no older checkpoint of the run is whole"):
        resume(tmp_path)


def test_jax_checks_moments_too(newest: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    from conjoin import FlaxEncoderDecoderModel
    from conjoin.training.jax.trainer import Seq2SeqTrainer as OnJax

    change_moments(newest, put("second/", -1.0))
    model = FlaxEncoderDecoderModel.from_pretrained(newest)
    args = arguments(tmp_path / "run", save_steps=2, max_steps=5, ema_decay=0.9)
    with pytest.raises(TrainingError, match=r"second/\S+ holds 1 negative numbers"):
        OnJax(model, args=args, train_dataset=toy_rows(24)).train(resume_from_checkpoint=True)


STATES: list[tuple[str, Any]] = [
    ("global_step", "4"),
    ("global_step", 3),
    ("global_step", -4),
    ("global_step", 1e300),
    ("epoch", [1]),
    ("epoch", 99),
    ("batches_seen", True),
    ("tokens_seen", None),
    ("seconds", "long"),
    ("seconds", float("inf")),
    ("loss_sum", {}),
    ("total_loss", 10**400),
    ("best_metric", "good"),
    ("best_step", 1.5),
    ("evaluations_without_progress", -1),
    ("fresh", "decoder"),
    ("fresh", [1]),
    ("plan", [1]),
    ("batches_per_step", 0),
    ("evaluation_due", 1),
    ("words", None),
    ("validation", 3),
]


@pytest.mark.parametrize(("name", "value"), STATES)
def test_a_state_of_odd_values_is_named(name: str, value: Any, newest: Path) -> None:
    path = newest / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    told = rf"trainer_state\.json: (.|\n)*{name}(.|\n)*checkpoint-2 goes on"
    checkpoint = Checkpoint(4, newest)
    with pytest.raises(DamagedCheckpoint, match=told), checkpoint.damage_explained():
        checkpoint.state()


def test_a_place_that_the_epoch_does_not_have_is_refused(newest: Path, tmp_path: Path) -> None:
    path = newest / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"batches_seen": 1000}))
    with pytest.raises(DamagedCheckpoint, match=r"batches_seen = 1000, and the epoch has 3(.|\n)*checkpoint-2 goes on"):
        resume(tmp_path)


@pytest.mark.parametrize("extra", [{"x": 1}, {"x" * 10_000: 1}])
def test_a_state_of_other_words_is_refused(extra: dict[str, int]) -> None:
    with pytest.raises(DamagedCheckpoint, match="not the state of a run") as caught:
        TrainerState.from_dict(extra)
    assert len(str(caught.value)) < 500


RANDOM: dict[str, Callable[[dict[str, Any]], object]] = {
    "torch": lambda state: state.update(torch=torch.zeros(3, dtype=torch.uint8)),
    "numpy": lambda state: state.update(numpy=(*state["numpy"][:2], 10**9, 0, 0.0)),
    "python": lambda state: state.update(python=(3, (1, 2), None)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_states_that_are_none_are_named(name: str, newest: Path) -> None:
    path = newest / "random.pt"
    states = torch.load(path, weights_only=True)
    assert len(read_random_states(path)) == 1
    RANDOM[name](states[0])
    torch.save(states, path)
    with pytest.raises(DamagedCheckpoint, match=rf"random\.pt: {name} of process 0 is no state of a generator"):
        read_random_states(path)
    torch.save({"no": 1}, path)
    with pytest.raises(DamagedCheckpoint, match=r"random\.pt: holds dict, expected a list"):
        read_random_states(path)


LINES = {
    "": None,
    '{"step": 1, "kind": "train"': "not JSON",
    "[1]": "holds",
    '{"kind": "train"}': "step = None",
    '{"step": "1", "kind": "train"}': "step = '1'; expected a whole number",
    '{"step": 1, "kind": 3}': "kind = 3",
    '{"step": 1, "kind": "train", "time_s": "long"}': "time_s = 'long'; expected a number",
    '{"step": 1, "kind": "train", "epoch": [1]}': "epoch",
    '{"step": 1, "kind": "sample", "source": 3}': "source = 3; expected text",
    "[" * 3000: "not JSON",
    '{"step": ' + "9" * 5000 + "}": "not JSON",
    '{"step": 1, "kind": "train", "eval_odd": {"a": [1]}, "more": "text", "huge": 1e999}': None,
}


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:50])
def test_a_line_of_metrics_that_no_run_writes_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 1, "kind": "train", "loss": 1.5}\n'
    path.write_text(f"{good}{line}\n{good}")
    told = LINES[line]
    if told is None:
        assert [found["step"] for found in read_log(tmp_path)][::2] in ([1], [1, 1])
        return
    with pytest.raises(FileError, match=rf"metrics\.jsonl, line 2: .*{told}"):
        list(read_log(tmp_path))


def test_a_folder_whose_name_only_looks_like_a_checkpoint_is_none(newest: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-²", "checkpoint-٣", "checkpoint-007", "checkpoint-", "checkpoint-9 copy", "checkpoint--1"):
        shutil.copytree(newest, newest.with_name(name))
    assert [each.step for each in RunFolder(tmp_path / "run").checkpoints()] == [2, 4]
    assert resume(tmp_path).global_step == 5


@pytest.mark.parametrize("cache", ["absent", "other", "garbage"])
def test_how_products_were_computed_is_in_the_checkpoint(
    cache: str, newest: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = linear_grad.fastest_products()
    assert json.loads((newest / "products.json").read_text()) == {"y": before.y, "dx": before.dx, "dw": before.dw}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    others = linear_grad._alternatives()
    other = Products(**{name: not getattr(before, name) for name in others})
    monkeypatch.setattr(linear_grad, "_measured", lambda: other)
    linear_grad.fastest_products.cache_clear()
    file = linear_grad._cache_file()
    assert file is not None
    if cache != "absent":
        file.write_text('{"y": 3}' if cache == "garbage" else json.dumps({name: True for name in others}))
    used: list[Products] = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda *given, **named: (used.append(linear_grad.fastest_products()), step(*given, **named))[1],
    )
    resume(tmp_path)
    assert used == [before]
    saved, whole = (EncoderDecoderModel.from_pretrained(folder / "run") for folder in (tmp_path, finished))
    torch.testing.assert_close(weights(saved), weights(whole), rtol=0, atol=0)
    if cache == "absent":
        assert linear_grad.fastest_products() == other  # which holds again after the run
    linear_grad.fastest_products.cache_clear()


def shards(folder: Path) -> Path:
    """Rows of two processes, the third of which has none."""
    array = np.arange(15, dtype=np.float32).reshape(5, 3)
    held = []
    for rank, rows in enumerate((3, 2)):
        part = array[:3] if rank == 0 else array[3:]
        more = [("updates/a", np.array(4), "int64")] if rank == 0 else []
        write_rows(folder, rank, [("first/a", part, "float32"), *more])
        held.append({"first/a": Share((5, 3), "float32", rows)} | {name: Share((), "int64", 1) for name, *_ in more})
    write_index(folder, [*held, {}])
    return folder / "shards" / "index.json"


def test_rows_of_many_processes_are_one_table(tmp_path: Path) -> None:
    shards(tmp_path)
    table = Pieces(tmp_path)
    assert set(table) == {"first/a", "updates/a"}
    np.testing.assert_array_equal(table["first/a"][0], np.arange(15).reshape(5, 3))
    assert table["updates/a"][0] == 4 and table["first/a"][1] == "float32"
    table.close()


INDEXES: dict[str, Callable[[Any], object]] = {
    "no rows": lambda a: a.update(rows=[]),
    "too few": lambda a: a.update(rows=a["rows"][:1]),
    "twice": lambda a: a.update(rows=[a["rows"][0], a["rows"][0]]),
    "more": lambda a: a.update(shape=[6, 3]),
    "wider": lambda a: a.update(shape=[5, 4]),
    "deeper": lambda a: a.update(shape=[5, 3, 1]),
    "other rows": lambda a: a.update(rows=[["process-0.safetensors", 2], ["process-1.safetensors", 3]]),
    "dtype": lambda a: a.update(dtype="int32"),
    "outside": lambda a: a.update(rows=[["../process-0.safetensors", 5]]),
    "absolute": lambda a: a.update(rows=[["/etc/passwd", 5]]),
    "missing": lambda a: a.update(rows=[["process-7.safetensors", 5]]),
    "negative": lambda a: a.update(rows=[["process-0.safetensors", -5], ["process-1.safetensors", 10]]),
    "no shape": lambda a: a.pop("shape"),
    "text": lambda a: a.update(shape="53"),
    "huge": lambda a: a.update(shape=[10**30, 3]),
}


@pytest.mark.parametrize("damage", INDEXES)
def test_an_index_that_does_not_fit_its_files_is_refused(damage: str, tmp_path: Path) -> None:
    path = shards(tmp_path)
    index = json.loads(path.read_text())
    INDEXES[damage](index["tensors"]["first/a"])
    path.write_text(json.dumps(index))
    with pytest.raises(ConjoinError):
        Pieces(tmp_path)
