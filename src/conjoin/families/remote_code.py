"""Configs of models whose code stands beside them on the hub: their keys in the words of transformers' own classes."""

from collections.abc import Collection, Mapping
from typing import Any

from conjoin.errors import ConfigError, listing


def without_fixed(model_type: str, values: Mapping[str, Any], fixed: Mapping[str, Collection[Any]]) -> dict[str, Any]:
    """Leave out the keys of switches that have one setting here.

    Args:
        fixed: Key -> the values that mean what the family computes.

    Raises:
        ConfigError: another value; all of them in one error.
    """
    wrong = [
        f"{key} = {values[key]!r}: expected {' or '.join(map(repr, allowed))}"
        for key, allowed in fixed.items()
        if key in values and values[key] not in allowed
    ]
    if wrong:
        raise ConfigError(
            f"{model_type}: the code beside this model on the hub computes what conjoin does not:\n{listing(wrong)}"
        )
    return {key: value for key, value in values.items() if key not in fixed}
