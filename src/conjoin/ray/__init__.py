"""Ray: `Generator` for Ray Data's `map_batches`, and the workers of `conjoin generate --ray`.

`Generator` imports no Ray by itself: it is a class whose instances take batches.
"""

from conjoin._lazy import public_dir
from conjoin.ray.generator import Generator

__all__ = ["Generator"]

__dir__ = public_dir(__all__)
