"""Models made of the files of saved models: fewer layers, fewer tokens, averaged weights. No framework."""

from conjoin._lazy import public_dir
from conjoin.surgery.average import average_checkpoints
from conjoin.surgery.folder import Change
from conjoin.surgery.shrink import shrink
from conjoin.surgery.trim import trim

__all__ = ["Change", "average_checkpoints", "shrink", "trim"]

__dir__ = public_dir(__all__)
