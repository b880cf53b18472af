"""Settings that the call names and that change nothing."""

from collections.abc import Iterator

from conjoin.generation import needs
from conjoin.generation.asked import GENERATE_ARGUMENTS, Asked
from conjoin.generation.facts import Circumstances
from conjoin.generation.settings import SETTINGS


def idle_settings(asked: Asked, circumstances: Circumstances) -> Iterator[str]:
    """Return one line for each setting of this call that has no effect."""
    for name, row in SETTINGS.items():
        value, need = asked.get(name), row.needs
        if need is not None and not need.holds(circumstances):
            if need is needs.SOURCE_IDS and value != row.default:
                # Without it the result is another one, so it is said too where the model's file asks for it.
                yield f"{name} = {value}: it needs {need.text}; set {name}={row.default:g}"
            elif asked.has(name):
                yield f"{name} = {value!r}: it needs {need.text}; set that, or leave {name} out"
        if row.unused and asked.has(name) and value not in row.neutral:
            yield f"{name} = {value!r}: {row.unused}; leave it out"
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if asked.has(total) and asked.get(new) is not None:
            yield f"{total} = {asked.get(total)}: {new} = {asked.get(new)} wins; leave one of them out"
    for name in asked.unknown:
        if name not in GENERATE_ARGUMENTS:
            yield f"{name} is no generation setting; remove it from the generation config"
