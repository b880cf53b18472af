"""What is wrong with a checkpoint is said at once, in one error of ours; loading is lean and saving all or nothing."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from conjoin import ConfigError, ConjoinError, EncoderDecoderModel, FileError, WeightError
from pairs import batch, fresh, stir

load = EncoderDecoderModel.from_pretrained
Tensors = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint."""
    fresh().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[Tensors], Any]) -> None:
    """Edit the stored tensors."""
    tensors = {name: array.copy() for name, array in safetensors.numpy.load_file(folder / "model.safetensors").items()}
    edit(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **values: Any) -> None:
    """Edit config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def failure(kind: type[ConjoinError], folder: Path, **keywords: Any) -> str:
    """The text of the one error that loading raises, which hides no other library's behind it."""
    with pytest.raises(kind) as caught:
        load(folder, **keywords)
    return str(caught.value)


QUERY = "encoder.encoder.layer.0.attention.self.query.weight"
WORDS = "decoder.bert.embeddings.word_embeddings.weight"


def test_every_missing_and_misshapen_tensor_is_named_in_one_error(folder: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors[QUERY], tensors["decoder.cls.predictions.bias"]
        tensors[WORDS] = tensors[WORDS][:-1]

    change(folder, spoil)
    told = failure(WeightError, folder)
    assert "encoder.blocks.0.self_attn.q.weight" in told
    assert "decoder.head.bias" in told
    assert "decoder.embed.words.weight: (52, 12) found, (53, 12) expected" in told
    assert str(folder) in told


def test_extra_tensors_are_named_and_do_no_harm(folder: Path) -> None:
    expected = load(folder)(**batch()).logits
    change(folder, lambda tensors: tensors.update({"classifier.weight": np.ones((2, 2), np.float32)}))
    model = load(folder)
    assert model.join_report.unused == {str(folder): ("classifier.weight",)}
    assert torch.equal(model(**batch()).logits, expected)


def test_every_tensor_that_is_not_finite_is_named_with_its_count(folder: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[QUERY][0, :3] = np.nan
        tensors[WORDS][5, 5] = np.inf

    change(folder, spoil)
    told = failure(WeightError, folder)
    assert f"{QUERY}: 3 of 400" in told
    assert f"{WORDS}: 1 of 636" in told


@pytest.mark.parametrize("size", [0, 4, 100, -100])
def test_a_truncated_file_is_said_to_be_one(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:size])
    told = failure(WeightError, folder)
    assert "model.safetensors" in told


def test_a_header_of_nonsense_is_an_error_of_ours(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((200).to_bytes(8, "little") + b"\xff" * 300)
    assert "model.safetensors" in failure(WeightError, folder)


def test_a_folder_without_weights_says_what_it_looked_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in failure(FileError, folder)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    expected = load(tmp_path)(**batch()).logits
    assert torch.equal(load(tmp_path)(**batch()).logits, expected)
    shards[1].unlink()
    assert f"'{shards[1].name}' is missing" in failure(WeightError, tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "..\\outside.safetensors"])
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    fresh().save_pretrained(tmp_path / "m", max_shard_size="20KB")
    path = tmp_path / "m" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {key: name for key in index["weight_map"]}
    path.write_text(json.dumps(index))
    with pytest.raises(ConjoinError, match=r"inside|outside|folder"):
        load(tmp_path / "m")


class Payload:
    """What a hostile `.bin` would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def test_a_bin_file_with_code_in_it_is_refused_and_nothing_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Payload()}, protocol=2))
    assert "pytorch_model.bin" in failure(WeightError, folder)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON at line 1"),
        ("[]", "holds a JSON list, expected an object"),
        ("", "not JSON"),
        ("{}", "model_type = None"),
        ('{"model_type": "brt"}', "model_type = 'brt' is not a family that conjoin knows"),
        ('{"model_type": "encoder-decoder", "encoder": {"model_type": "bert"}}', "both encoder and decoder"),
        ('{"model_type": "encoder-decoder", "encoder": {}, "decoder": {}}', "model_type = None"),
        ('{"model_type": "encoder-decoder", "encoder": 3, "decoder": 3}', "A half of the pair is a int"),
    ],
)
def test_an_unusable_config_is_one_clear_error(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    assert message in failure(ConfigError, folder)


def test_all_values_of_the_wrong_type_are_named_at_once(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    configure(folder, encoder={**config["encoder"], "hidden_size": "20", "layer_norm_eps": None})
    told = failure(ConfigError, folder)
    assert "hidden_size = '20': expected int" in told
    assert "layer_norm_eps = None: expected float" in told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 21}, "hidden_size = 21 is not a multiple of num_attention_heads = 5"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0: expected 1 to 4,096"),
    ],
)
def test_sizes_that_do_not_fit_together_are_errors_of_ours(folder: Path, values: dict[str, int], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    configure(folder, encoder={**config["encoder"], **values})
    assert message in failure(ConfigError, folder)


def test_a_config_of_other_sizes_than_the_weights_is_a_list_of_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    configure(folder, decoder={**config["decoder"], "vocab_size": 60})
    assert "decoder.embed.words.weight: (53, 12) found, (60, 12) expected" in failure(WeightError, folder)


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "~nobody/model", "a/b/c"])
def test_a_name_that_leads_nowhere_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name in failure(FileError, Path(name) if name.startswith("no/") else name)  # pyright: ignore


def test_a_file_in_place_of_a_folder_says_so(folder: Path) -> None:
    assert "is a file, expected a folder" in failure(FileError, folder / "config.json")


def test_a_subfolder_cannot_lead_out(folder: Path) -> None:
    assert "does not name a file inside its folder" in failure(FileError, folder, subfolder="../..")


def test_a_single_model_is_no_pair(tmp_path: Path) -> None:
    fresh().encoder.save_pretrained(tmp_path)
    assert "is one half, not a pair" in failure(ConfigError, tmp_path)


def test_a_join_reports_the_problems_of_both_halves(tmp_path: Path) -> None:
    model = fresh()
    model.encoder.save_pretrained(tmp_path / "e")
    model.decoder.save_pretrained(tmp_path / "d")
    change(tmp_path / "e", lambda tensors: tensors.pop("encoder.layer.0.attention.self.query.weight"))
    change(tmp_path / "d", lambda tensors: tensors.pop("bert.encoder.layer.1.output.dense.bias"))
    with pytest.raises(WeightError) as caught:
        EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "e", tmp_path / "d")
    assert "encoder.blocks.0.self_attn.q.weight" in str(caught.value)
    assert "decoder.blocks.1.mlp.down.bias" in str(caught.value)


def test_a_failed_save_leaves_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = stir(load(folder))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_generation_config", full)
    with pytest.raises(FileError, match="What was there before is untouched"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_saving_over_the_folder_that_a_model_came_from_keeps_the_users_files(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    model = stir(load(folder))
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert torch.equal(load(folder)(**batch()).logits, model(**batch()).logits)


def test_dtypes_are_the_checkpoints_own_unless_asked(folder: Path) -> None:
    load(folder, dtype="float16").save_pretrained(folder)
    assert load(folder).dtype == torch.float16
    assert load(folder, dtype=torch.float32).dtype == torch.float32


MEASURE = """
import json, resource, sys, threading
from conjoin import EncoderDecoderModel
import torch
def anonymous():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024
before, peak, done = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch); watcher.start()
model = EncoderDecoderModel.from_pretrained(sys.argv[1])
done.set(); watcher.join()
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({"size": size, "peak": max(peak, anonymous()) - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_loading_needs_little_more_memory_than_the_model(tmp_path: Path) -> None:
    big: dict[str, Any] = {"hidden_size": 640, "num_attention_heads": 10, "intermediate_size": 2560}
    sizes = {"vocab_size": 20000, "num_hidden_layers": 6, "max_position_embeddings": 128, **big}
    from conjoin import BertConfig

    fresh(BertConfig(**sizes), BertConfig(**sizes)).save_pretrained(tmp_path)
    source = Path(__file__).parents[2] / "src"
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    measured = json.loads(told.stdout)
    assert measured["size"] > 300e6
    assert measured["peak"] < 1.3 * measured["size"], measured


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fnuz])
def test_parameters_of_other_numbers_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """Values of a quantised file without its scales, which no config tells of."""
    fresh().save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if state[name].ndim == 2)
    state[name] = state[name].to(dtype)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightError, match=f"not stored as floating-point numbers:\n.*{name}"):
        load(tmp_path)
