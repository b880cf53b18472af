"""The index file of a sharded checkpoint, checked before any shard is opened and again when all are open."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from conjoin.checkpoint.files import inside, read_json
from conjoin.checkpoint.header import TensorInfo
from conjoin.errors import FileError, WeightError, listing

_SHOWN = 100  # characters of a name in an error


@dataclass(frozen=True, slots=True)
class Index:
    """The shard of every tensor.

    Args:
        weight_map: Tensor name -> shard.
    """

    path: Path
    weight_map: dict[str, Path]

    @property
    def files(self) -> list[Path]:
        """The shards, sorted."""
        return sorted(set(self.weight_map.values()))

    def disagreements(self, shards: Mapping[Path, Mapping[str, TensorInfo]]) -> list[str]:
        """Return the differences between the index and the tensors in the shards."""
        holders: dict[str, list[Path]] = {}
        for path, infos in shards.items():
            for name in infos:
                holders.setdefault(name, []).append(path)
        problems: list[str] = []
        for name, path in self.weight_map.items():
            if path not in holders.get(name, []):
                problems.append(f"{name}: listed for {path.name}, which does not hold it")
        for name, paths in holders.items():
            if len(paths) > 1:
                problems.append(f"{name}: in more than one shard: {', '.join(path.name for path in paths)}")
            elif name not in self.weight_map:
                problems.append(f"{name}: in {paths[0].name}, but the index does not list it")
        return problems

    def miscounts(self, shards: Mapping[Path, Mapping[str, TensorInfo]]) -> list[str]:
        """Return the shards whose number of tensors differs from the index; for files whose names differ from it."""
        listed = Counter(self.weight_map.values())
        return [
            f"{path.name}: {len(infos)} tensors, the index lists {listed[path]}"
            for path, infos in shards.items()
            if len(infos) != listed[path]
        ]


def read_index(path: Path) -> Index:
    """Read an index and check that its shards exist and are inside the folder.

    Raises:
        ConfigError: the file is not JSON.
        WeightError: it has no weight_map, or shards are missing or outside the folder.
    """
    weight_map = read_json(path).get("weight_map")
    entries = cast(dict[str, Any], weight_map) if isinstance(weight_map, dict) else {}
    if not entries or not all(isinstance(shard, str) for shard in entries.values()):
        raise WeightError(f"{path}: expected a weight_map from tensor names to shard files.")
    shards = sorted(set(cast(dict[str, str], entries).values()))
    problems = [problem for shard in shards if (problem := _problem(path.parent, shard))]
    if problems:
        raise WeightError(
            f"{path}: unusable shards:\n{listing(problems)}", hint="download or save the checkpoint again"
        )
    return Index(path, {name: path.parent / shard for name, shard in entries.items()})


def _problem(folder: Path, shard: str) -> str | None:
    try:
        real = (folder / inside(shard)).resolve()
    except (FileError, ValueError, OSError, RuntimeError):  # a zero byte in the name; circular links
        return f"{shard[:_SHOWN]!r} leads out of the folder"
    if not any(real.is_relative_to(root) for root in _allowed_roots(folder)):
        return f"{shard[:_SHOWN]!r} is a link that leads out of the folder"
    try:
        return None if real.is_file() else f"{shard[:_SHOWN]!r} is missing"
    except OSError as error:
        return f"{shard[:_SHOWN]!r} cannot be read: {error.strerror}"


def _allowed_roots(folder: Path) -> list[Path]:
    """Return the folder itself and the hub cache's blobs folder, which its snapshots link to."""
    roots = [folder.resolve()]
    for parent in roots[0].parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            roots.append(parent.parent / "blobs")
    return roots
