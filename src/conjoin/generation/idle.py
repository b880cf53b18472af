"""Settings that the call names and that change nothing."""

from collections.abc import Iterator

from conjoin.errors import shown
from conjoin.generation import needs
from conjoin.generation.facts import Circumstances
from conjoin.generation.settings import SETTINGS
from conjoin.generation.user_settings import GENERATE_ARGUMENTS, UserSettings


def idle_settings(settings: UserSettings, circumstances: Circumstances) -> Iterator[str]:
    """Return one line for each setting of this call that has no effect."""
    for name, value in settings.values.items():
        row = SETTINGS[name]
        need = row.needs
        if need is not None and not need.holds(circumstances):
            if need is needs.SOURCE_IDS and value != row.default:
                # Without it the result is another one, so it is said too where the model's file asks for it.
                yield f"{name} = {value}: it needs {need.text}; set {name}={row.default:g}"
            elif settings.has(name):
                yield f"{name} = {shown(value)}: it needs {need.text}; set that, or leave {name} out"
        if row.unused and settings.has(name) and value not in row.neutral:
            yield f"{name} = {shown(value)}: {row.unused}; leave it out"
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if settings.has(total) and settings.get(new) is not None:
            yield f"{total} = {settings.get(total)}: {new} = {settings.get(new)} wins; leave one of them out"
    for name in settings.unknown:
        if name not in GENERATE_ARGUMENTS:
            yield f"{name} is no generation setting; remove it from the generation config"
