"""The watermark of green tokens, as a setting."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, cast


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkingConfig:
    """A watermark of green tokens (Kirchenbauer et al. 2023, arXiv:2306.04634).

    Args:
        greenlist_ratio: Share of the vocabulary that is green.
        bias: Added to the scores of green tokens.
        hashing_key: Whoever knows it can find the watermark.
        seeding_scheme: "lefthash" seeds with the last token, "selfhash" with the candidate itself too (slower).
        context_width: Tokens that "selfhash" looks back.
    """

    greenlist_ratio: float = 0.25
    bias: float = 2.0
    hashing_key: int = 15485863
    seeding_scheme: str = "lefthash"
    context_width: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return what generation_config.json holds."""
        return asdict(self)

    @classmethod
    def of(cls, value: Any) -> "WatermarkingConfig | None":
        """Read a dict or another library's config, such as transformers'; None where it is neither."""
        if isinstance(value, WatermarkingConfig):
            return value
        values = as_mapping(value)
        return None if values is None or not values.keys() <= {each.name for each in fields(cls)} else cls(**values)


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """Return a dict as it is, another library's config as its dict; None where it is neither."""
    values = value.to_dict() if hasattr(value, "to_dict") else value
    return cast(Mapping[str, Any], values) if isinstance(values, Mapping) else None
