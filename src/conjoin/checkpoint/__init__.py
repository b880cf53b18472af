"""Checkpoint files: find, read, write, rename and audit tensors. No framework, no model."""

from conjoin._lazy import public_dir
from conjoin.checkpoint.adapters import ADAPTER_CONFIG, has_adapter, refuse_adapter
from conjoin.checkpoint.audit import Audit, Misshapen, audit
from conjoin.checkpoint.dialects import FRAMEWORKS, FROM_KEYWORDS, Dialect, Framework, Kind, pop_framework
from conjoin.checkpoint.dtypes import from_float32, nonfinite, to_float32
from conjoin.checkpoint.files import (
    Staging,
    expanded,
    lock_file,
    read_json,
    reading,
    replacing_bytes,
    replacing_file,
    replacing_folder,
    require_file,
    write_json,
)
from conjoin.checkpoint.find import TARGET_FOLDER, resolve
from conjoin.checkpoint.fingerprint import fingerprints
from conjoin.checkpoint.forms import ADAPTER_WEIGHTS, H5, MSGPACK, SAFETENSORS, Form, is_weight_file, own_form
from conjoin.checkpoint.header import TensorInfo
from conjoin.checkpoint.layouts import (
    Fused,
    HeadFused,
    Layout,
    PairedRotary,
    Parts,
    Reshaped,
    Row,
    Same,
    Shifted,
    Transposed,
)
from conjoin.checkpoint.names import Match, NameTable, Plan, Rule, Undo
from conjoin.checkpoint.tensors import Checkpoint, check_finite, open_checkpoint, writers_replaced
from conjoin.checkpoint.write import Tensor, parse_size, write_dialect, write_tensors

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "FRAMEWORKS",
    "FROM_KEYWORDS",
    "H5",
    "MSGPACK",
    "SAFETENSORS",
    "TARGET_FOLDER",
    "Audit",
    "Checkpoint",
    "Dialect",
    "Form",
    "Framework",
    "Fused",
    "HeadFused",
    "Kind",
    "Layout",
    "Match",
    "Misshapen",
    "NameTable",
    "PairedRotary",
    "Parts",
    "Plan",
    "Reshaped",
    "Row",
    "Rule",
    "Same",
    "Shifted",
    "Staging",
    "Tensor",
    "TensorInfo",
    "Transposed",
    "Undo",
    "audit",
    "check_finite",
    "expanded",
    "fingerprints",
    "from_float32",
    "has_adapter",
    "is_weight_file",
    "lock_file",
    "nonfinite",
    "open_checkpoint",
    "own_form",
    "parse_size",
    "pop_framework",
    "read_json",
    "reading",
    "refuse_adapter",
    "replacing_bytes",
    "replacing_file",
    "replacing_folder",
    "require_file",
    "resolve",
    "to_float32",
    "write_dialect",
    "write_json",
    "write_tensors",
    "writers_replaced",
]

__dir__ = public_dir(__all__)
