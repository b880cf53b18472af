"""The kinds of weight files, and which of them a folder has."""

import re
from dataclasses import dataclass
from pathlib import Path

from conjoin.checkpoint.dialects import FRAMEWORKS, Framework


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of weight file; large models are split into shards with an index.

    Args:
        stem, suffix: The file is `stem.suffix`, a shard `stem-00001-of-00002.suffix`.
        frameworks: Frameworks whose names and layouts such files may hold.
    """

    stem: str
    suffix: str
    frameworks: tuple[Framework, ...]

    @property
    def file(self) -> str:
        """Name of the file if there are no shards."""
        return f"{self.stem}.{self.suffix}"

    @property
    def index(self) -> str:
        """Name of the index beside shards."""
        return f"{self.file}.index.json"

    def has(self, name: str) -> bool:
        """True if a file is of this form: the single file, a shard or the index."""
        stem, suffix = re.escape(self.stem), re.escape(self.suffix)
        pattern = rf"{stem}(-\d{{5}}-of-\d{{5}})?\.{suffix}|{stem}\.{suffix}\.index\.json"
        return re.fullmatch(pattern, name) is not None

    def find(self, folder: Path, variant: str | None) -> Path | None:
        """Return the single file or the index, or None if the folder has neither.

        Args:
            variant: As in `model.fp16.safetensors`.
        """
        name = f"{self.stem}.{variant}.{self.suffix}" if variant else self.file
        index = f"{self.file}.index.{variant}.json" if variant else self.index
        return next((path for path in (folder / name, folder / index) if path.exists()), None)


ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""peft's name of the weights of an adapter, which may stand beside a model's own."""
SAFETENSORS = Form("model", "safetensors", ("pt", "tf", "flax"))
BIN = Form("pytorch_model", "bin", ("pt",))
H5 = Form("tf_model", "h5", ("tf",))
MSGPACK = Form("flax_model", "msgpack", ("flax",))
GGUF = Form("model", "gguf", ("pt",))
"""Never written: the link to a GGUF file in the folder that stands for it."""


def is_weight_file(name: str) -> bool:
    """True if a file holds weights, or is an index of such files, whatever its stem."""
    return name.endswith((".safetensors", ".bin", ".h5", ".msgpack", ".gguf", ".index.json"))


def search_order(framework: Framework | None) -> tuple[Form, ...]:
    """Return the forms in the order in which they are searched: a framework's own form before the common one."""
    match framework:
        case None:
            return (SAFETENSORS, BIN, H5, MSGPACK, GGUF)
        case "pt":
            return (SAFETENSORS, BIN, GGUF)
        case "tf":
            return (H5, SAFETENSORS)
        case "flax":
            return (MSGPACK, SAFETENSORS)


def own_form(framework: Framework) -> Form:
    """Return the form that transformers' class of a framework writes."""
    return {"pt": SAFETENSORS, "tf": H5, "flax": MSGPACK}[framework]


def replaces(form: Form) -> tuple[Form, ...]:
    """Return the forms whose files a new file replaces: an old .bin would be a second set of weights."""
    return (SAFETENSORS, BIN) if form == SAFETENSORS else (form,)


def expected_files(framework: Framework | None) -> str:
    """Return the names of the files that are searched, for an error."""
    names = [form.file for form in search_order(framework) if form != GGUF]
    owner = f" of {FRAMEWORKS[framework]}" if framework else ""
    return f"{', '.join(names[:-1])} or {names[-1]}{owner}, or an index beside shards"
