"""Checkpoint files: find, read, write, rename and audit tensors. No framework, no model."""

from conjoin.checkpoint.audit import Audit, Misshapen, audit
from conjoin.checkpoint.dtypes import nonfinite
from conjoin.checkpoint.files import Staging, read_json, replacing_file, replacing_folder, write_json
from conjoin.checkpoint.find import resolve
from conjoin.checkpoint.header import TensorInfo
from conjoin.checkpoint.layouts import (
    Fused,
    HeadFused,
    Layout,
    Reshaped,
    Row,
    Same,
    Shifted,
    Transposed,
)
from conjoin.checkpoint.names import Match, NameTable, Plan, Rule, Undo
from conjoin.checkpoint.tensors import Checkpoint, check_finite, open_checkpoint
from conjoin.checkpoint.write import parse_size, write_tensors

__all__ = [
    "Audit",
    "Checkpoint",
    "Fused",
    "HeadFused",
    "Layout",
    "Match",
    "Misshapen",
    "NameTable",
    "Plan",
    "Reshaped",
    "Row",
    "Rule",
    "Same",
    "Shifted",
    "Staging",
    "TensorInfo",
    "Transposed",
    "Undo",
    "audit",
    "check_finite",
    "nonfinite",
    "open_checkpoint",
    "parse_size",
    "read_json",
    "replacing_file",
    "replacing_folder",
    "resolve",
    "write_json",
    "write_tensors",
]
