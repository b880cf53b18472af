"""Models made of the files of saved models: fewer layers, averaged weights. No framework."""

from conjoin._lazy import public_dir
from conjoin.surgery.average import average_checkpoints
from conjoin.surgery.folder import Change
from conjoin.surgery.shrink import shrink

__all__ = ["Change", "average_checkpoints", "shrink"]

__dir__ = public_dir(__all__)
