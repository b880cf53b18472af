"""Names of the parts of a model, for `freeze` and `unfreeze`."""

from collections.abc import Collection, Iterable

from conjoin.errors import ConfigError


def parts_named(names: Iterable[str], parts: Collection[str]) -> set[str]:
    """Return the parts with these names; a name such as "encoder" or "embeddings" selects all parts that contain it.

    Args:
        parts: The parts of the model, as `part_of` names them.

    Raises:
        ConfigError: a name matches no part, or there are no names; lists all known names.
    """
    selected = {name: {part for part in parts if _matches(name, part)} for name in names}
    unknown = [name for name, matching in selected.items() if not matching]
    if unknown or not selected:
        known = sorted({name for part in parts for name in (part, *part.split("."))})
        problem = f"No part of this model is called {', '.join(map(repr, unknown))}" if unknown else "No part is named"
        raise ConfigError(f"{problem}.\nExpected any of: {', '.join(known)}.")
    return set[str]().union(*selected.values())


def _matches(name: str, part: str) -> bool:
    name = "embedding" if name == "embeddings" else name.replace(".embeddings", ".embedding")
    return name == part or name in part.split(".")
