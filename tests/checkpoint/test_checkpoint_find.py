"""From a name to a folder: local folders, the hub's cache offline, and a stub of the hub; never the network."""

import errno
import fnmatch
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub._tree_cache import TREE_CACHE_FORMAT_VERSION

from conjoin.checkpoint import resolve
from conjoin.errors import FileError

SHA = "0123456789abcdef0123456789abcdef01234567"


def _cache(root: Path, name: str, files: dict[str, str], revision: str = "main") -> Path:
    """Lay a repository out as the hub's cache does: files in blobs, links in snapshots."""
    repository = root / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / SHA
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / revision).write_text(SHA)
    (repository / "blobs").mkdir()
    for number, (path, text) in enumerate(files.items()):
        (repository / "blobs" / str(number)).write_text(text)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + path.count("/"))
        (folder / path).symlink_to(f"{up}blobs/{number}")
    return folder


class Hub:
    """Stands in for huggingface_hub.snapshot_download: filters its files as the hub does, and notes the calls."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder = folder
        self.files = files
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repo_id: str, **given: Any) -> str:
        self.calls.append({"repo_id": repo_id, **given})
        for name in self.files:
            wanted = any(fnmatch.fnmatch(name, pattern) for pattern in given["allow_patterns"])
            if wanted and not any(fnmatch.fnmatch(name, pattern) for pattern in given["ignore_patterns"] or ()):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).touch()
        return str(self.folder)

    @property
    def fetched(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snapshot").mkdir()
    stub = Hub(tmp_path / "snapshot", [])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub)
    return stub


def _failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileError) as caught:
        resolve("org/name", revision="v9")
    return str(caught.value)


def _answer(kind: Any, status: int) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error")
    error.response = SimpleNamespace(status_code=status)
    return error


# Local folders


def test_a_local_folder_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name" / "unet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("org/name") == Path("org/name")
    assert resolve(tmp_path / "org", subfolder="name/unet") == tmp_path / "org/name/unet"
    assert resolve("~/org/name") == tmp_path / "org/name"


def test_a_subfolder_must_be_there_and_inside(tmp_path: Path) -> None:
    (tmp_path / "decoder").mkdir()
    with pytest.raises(FileError, match=r"has no folder 'encoder'\. It has: decoder\."):
        resolve(tmp_path, subfolder="encoder")
    with pytest.raises(FileError, match="does not name a file inside its folder"):
        resolve(tmp_path / "decoder", subfolder="../x")


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "a/b/c", "~/absent", "org/na me", "a--b", "x/y.git", ""])
def test_what_is_neither_folder_nor_id_says_both(name: str) -> None:
    with pytest.raises(
        FileError, match=r"(?s)on this machine .*, and that is not a valid hub id either.*hint: a hub id has"
    ):
        resolve(name)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileError, match=f"is a file, expected a folder.\n\nhint: use the folder it is in: {tmp_path}"):
        resolve(tmp_path / "model.safetensors")


# The hub's own cache, offline


def test_the_cache_is_read_offline(tmp_path: Path) -> None:
    folder = _cache(tmp_path, "org/name", {"config.json": "{}", "model.safetensors": ""})
    assert resolve("org/name", cache_dir=tmp_path) == folder
    assert resolve("org/name", cache_dir=tmp_path, revision=SHA, local_files_only=True) == folder


def test_a_subfolder_is_found_in_the_cache(tmp_path: Path) -> None:
    folder = _cache(tmp_path, "org/name", {"encoder/config.json": "{}", "encoder/pytorch_model.bin": ""})
    assert resolve("org/name", cache_dir=tmp_path, subfolder="encoder") == folder / "encoder"


def test_a_name_that_is_not_in_the_cache_says_that_downloads_are_off(tmp_path: Path) -> None:
    _cache(tmp_path, "org/name", {"config.json": "{}"})
    for name, revision in (("org/other", None), ("org/name", "v2")):
        with pytest.raises(FileError) as caught:
            resolve(name, cache_dir=tmp_path, revision=revision)
        assert str(caught.value) == (
            f"{name} is not, or not completely, in the local cache, and downloads are disabled.\n\n"
            "hint: unset HF_HUB_OFFLINE (or pass local_files_only=False) once while online"
        )


def test_a_snapshot_that_lacks_only_a_side_file_is_used(tmp_path: Path) -> None:
    folder = _cache(tmp_path, "org/name", {"config.json": "{}", "model.safetensors": ""})
    listed = {path: {"size": 1, "blob_id": "x"} for path in ("config.json", "special_tokens.json")}
    tree = tmp_path / "models--org--name" / "trees" / f"{SHA}.json"
    tree.parent.mkdir()
    tree.write_text(json.dumps({"format_version": TREE_CACHE_FORMAT_VERSION, "files": listed}))
    with pytest.raises(errors.IncompleteSnapshotError):
        huggingface_hub.snapshot_download("org/name", cache_dir=tmp_path, local_files_only=True)
    assert resolve("org/name", cache_dir=tmp_path) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileError, match="not completely, in the local cache"):
        resolve("org/name", cache_dir=tmp_path)


# A stub of the hub


def test_weights_config_and_tokenizer_are_fetched_and_nothing_else(hub: Hub) -> None:
    wanted = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "source.spm",
    ]
    hub.files = [*wanted, "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.json", "README.md"]
    hub.files += ["consolidated.safetensors", "sub/model.safetensors"]
    assert resolve("org/name", revision="v1", cache_dir=hub.folder.parent, token="t") == hub.folder
    assert hub.fetched == sorted(wanted)
    (call,) = hub.calls
    assert (call["repo_id"], call["revision"], call["token"], call["local_files_only"]) == (
        "org/name",
        "v1",
        "t",
        False,
    )


def test_bin_files_are_fetched_only_where_there_are_no_safetensors(hub: Hub) -> None:
    hub.files = ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "optimizer.bin"]
    resolve("name")
    assert hub.fetched == ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    assert len(hub.calls) == 2


@pytest.mark.parametrize(
    ("weights", "calls"),
    [(["tf_model.h5"], 3), (["flax_model.msgpack"], 4), (["tf_model-00001-of-00001.h5", "tf_model.h5.index.json"], 3)],
)
def test_other_frameworks_files_are_fetched_where_there_are_no_others(hub: Hub, weights: list[str], calls: int) -> None:
    hub.files = ["config.json", *weights, "rust_model.ot"]
    resolve("name")
    assert hub.fetched == sorted(["config.json", *weights])
    assert len(hub.calls) == calls


@pytest.mark.parametrize(
    ("framework", "others", "fetched"),
    [
        ("tf", ["model.safetensors", "tf_model.h5"], ["model.safetensors", "tf_model.h5"]),
        ("flax", ["pytorch_model.bin", "flax_model.msgpack"], ["flax_model.msgpack"]),
    ],
)
def test_a_framework_that_is_asked_for_is_fetched_too(
    hub: Hub, framework: Any, others: list[str], fetched: list[str]
) -> None:
    hub.files = ["config.json", *others]
    resolve("name", framework=framework)
    assert hub.fetched == sorted(["config.json", *fetched])


def test_a_subfolder_alone_is_fetched(hub: Hub) -> None:
    hub.files = ["config.json", "enc/config.json", "enc/model.safetensors", "enc/deep/x.json", "dec/model.safetensors"]
    assert resolve("org/name", subfolder="enc") == hub.folder / "enc"
    assert hub.fetched == ["enc/config.json", "enc/model.safetensors"]


def test_patterns_of_the_caller_replace_ours(hub: Hub) -> None:
    hub.files = ["tf_model.h5", "config.json", "onnx/model.onnx"]
    resolve("org/name", allow_patterns=["*.h5", "onnx/*"])
    assert hub.fetched == ["onnx/model.onnx", "tf_model.h5"]


@pytest.mark.parametrize("key", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_mode_is_respected_even_if_set_late(hub: Hub, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(key, "yes")
    resolve("org/name")
    assert hub.calls[0]["local_files_only"] is True
    resolve("org/name", local_files_only=False)
    assert hub.calls[-1]["local_files_only"] is False


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            _answer(errors.GatedRepoError, 403),
            "is gated: its terms must be accepted on the hub first.\n\nhint: open https://hug",
        ),
        (_answer(errors.RevisionNotFoundError, 404), "is on the hub, but has no revision 'v9'"),
        (_answer(errors.RepositoryNotFoundError, 401), "is neither a folder on this machine nor a model on the hub"),
        (
            _answer(errors.HfHubHTTPError, 403),
            "may not be read: the hub answered 403.\n\nhint: open https://huggingface.co/org",
        ),
        (_answer(errors.HfHubHTTPError, 500), "could not be fetched from the hub. HfHubHTTPError: 500 Client Error"),
        (errors.LocalEntryNotFoundError("x"), "is not in the local cache, and the hub cannot be reached"),
        (errors.OfflineModeIsEnabled("x"), "is not in the local cache, and the hub cannot be reached"),
        (errors.HFValidationError("odd name"), "is neither a folder on this machine nor a valid hub id: odd name"),
        (OSError(errno.ENOSPC, "full"), "could not be downloaded: the disk is full.\n\nhint: free some space"),
        (
            RuntimeError("first line\nsecond"),
            "could not be fetched from the hub. RuntimeError: first line\n\nhint: try",
        ),
    ],
)
def test_each_failure_of_the_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    text = _failing(monkeypatch, error)
    assert text.startswith("org/name ")
    assert words in text


@pytest.mark.parametrize(
    "name", ["x" * 5000, "./" + "x/" * 3000, "~nobody-of-this-name/model", "./a\0b", "./circle/model"]
)
def test_a_name_that_the_system_refuses_is_an_error_of_ours(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    with pytest.raises(FileError) as caught:
        resolve(name, local_files_only=True)
    assert len(str(caught.value)) < 1500
