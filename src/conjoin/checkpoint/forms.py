"""The files that weights come in, and which of them a folder has."""

import re
from dataclasses import dataclass
from pathlib import Path

from conjoin.checkpoint.dialects import FRAMEWORKS, Framework


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of weight file; large ones come in shards beside an index.

    Args:
        stem, suffix: Its name is `stem.suffix`, a shard's `stem-00001-of-00002.suffix`.
        frameworks: Whose names and layouts such files may hold.
    """

    stem: str
    suffix: str
    frameworks: tuple[Framework, ...]

    @property
    def file(self) -> str:
        """Name of the only file."""
        return f"{self.stem}.{self.suffix}"

    @property
    def index(self) -> str:
        """Name of the index beside shards."""
        return f"{self.file}.index.json"

    def has(self, name: str) -> bool:
        """Whether a file is of this form: the only file, a shard or the index."""
        stem, suffix = re.escape(self.stem), re.escape(self.suffix)
        pattern = rf"{stem}(-\d{{5}}-of-\d{{5}})?\.{suffix}|{stem}\.{suffix}\.index\.json"
        return re.fullmatch(pattern, name) is not None

    def found(self, folder: Path, variant: str | None) -> Path | None:
        """The only file or the index, where the folder has one.

        Args:
            variant: As in `model.fp16.safetensors`.
        """
        name = f"{self.stem}.{variant}.{self.suffix}" if variant else self.file
        index = f"{self.file}.index.{variant}.json" if variant else self.index
        return next((folder / each for each in (name, index) if (folder / each).exists()), None)


SAFETENSORS = Form("model", "safetensors", ("pt", "tf", "flax"))
BIN = Form("pytorch_model", "bin", ("pt",))
H5 = Form("tf_model", "h5", ("tf",))
MSGPACK = Form("flax_model", "msgpack", ("flax",))


def is_weight_file(name: str) -> bool:
    """Whether a file holds weights, or is an index of such files, whatever its stem."""
    return name.endswith((".safetensors", ".bin", ".h5", ".msgpack", ".index.json"))


def lookup(framework: Framework | None) -> tuple[Form, ...]:
    """Forms in the order in which they are looked for: a framework's own file before the one they all may hold."""
    match framework:
        case None:
            return (SAFETENSORS, BIN, H5, MSGPACK)
        case "pt":
            return (SAFETENSORS, BIN)
        case "tf":
            return (H5, SAFETENSORS)
        case "flax":
            return (MSGPACK, SAFETENSORS)


def own_form(framework: Framework) -> Form:
    """The form that a framework's own class writes."""
    return {"pt": SAFETENSORS, "tf": H5, "flax": MSGPACK}[framework]


def replaces(form: Form) -> tuple[Form, ...]:
    """The forms whose files a new one takes the place of: an old .bin would be a second set of weights."""
    return (SAFETENSORS, BIN) if form == SAFETENSORS else (form,)


def spelled(framework: Framework | None) -> str:
    """What is looked for, as a sentence has it."""
    names = [form.file for form in lookup(framework)]
    whose = f" of {FRAMEWORKS[framework]}" if framework else ""
    return f"{', '.join(names[:-1])} or {names[-1]}{whose}, or an index beside shards"
