"""Positions of tokens, and the positions that attention uses: rotary angles and T5's relative bias."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.cpu import pointwise
from conjoin.torch.cpu.pointwise import rotates_in_training
from conjoin.torch.model.norm import build_norm

Angles = tuple[Tensor, Tensor]


def _yarn_frequencies(kind: spec.Rotary, scaling: spec.YarnScaling, frequencies: Tensor) -> Tensor:
    """Return a blend of stretched and plain frequencies over a ramp (Peng et al. 2023, arXiv:2309.00071, 3.2)."""

    def dimension(rotations: float) -> float:
        waves = scaling.original_max_positions / (rotations * 2 * math.pi)
        return kind.rotary_size * math.log(waves) / (2 * math.log(kind.base))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, kind.rotary_size - 1)
    width = high - low or 0.001  # as in the reference, against a ramp of width 0
    ramp = ((torch.arange(kind.rotary_size // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _llama3_frequencies(scaling: spec.Llama3Scaling, frequencies: Tensor) -> Tensor:
    waves = 2 * math.pi / frequencies
    share = (scaling.original_max_positions / waves - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    share = share.clamp(0, 1)
    return (1 - share) * frequencies / scaling.factor + share * frequencies


@lru_cache(maxsize=256)
def rotary_frequencies(kind: spec.Rotary, device: torch.device) -> Float[Tensor, " half"]:
    """Return the radians per position of every pair of dimensions, float32."""
    exponents = torch.arange(0, kind.rotary_size, 2, dtype=torch.float32) / kind.rotary_size
    plain = 1.0 / kind.base**exponents
    match kind.scaling:
        case spec.PlainScaling(factor=factor):
            frequencies = plain / factor
        case spec.Llama3Scaling() as scaling:
            frequencies = _llama3_frequencies(scaling, plain)
        case spec.YarnScaling() as scaling:
            frequencies = _yarn_frequencies(kind, scaling, plain)
        case spec.LongRope(factors=factors):
            frequencies = 1.0 / (torch.tensor(factors, dtype=torch.float32) * kind.base**exponents)
    return frequencies.to(device)


def rotary_angles(kind: spec.Rotary, position_ids: Int[Tensor, "R T"], dtype: torch.dtype) -> Angles:
    """Return cos and sin, each [R, 1, T, rotary_size], computed in float32 and cast to `dtype`."""
    frequencies = rotary_frequencies(kind, position_ids.device)
    angles = (position_ids[..., None].float() * frequencies).unsqueeze(1)
    cos, sin = angles.cos() * kind.attention_factor, angles.sin() * kind.attention_factor
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((sin, sin), -1).to(dtype)


def rotate(x: Float[Tensor, "R H T E"], angles: Angles) -> Float[Tensor, "R H T E"]:
    """Rotate the leading rotary_size dimensions of every head; the others are unchanged."""
    cos, sin = angles
    if rotates_in_training(x, cos):
        return pointwise.rotate(x, cos, sin)
    size = cos.shape[-1]
    head, rest = (x, None) if size == x.shape[-1] else (x[..., :size], x[..., size:])
    first, second = head.chunk(2, -1)
    rotated = (head * cos + torch.cat((-second, first), -1) * sin).type_as(x)
    return rotated if rest is None else torch.cat((rotated, rest), -1)


class RelativeBias(nn.Module):
    """T5's learned bias per bucketed distance and head (Raffel et al. 2020, arXiv:1910.10683, 2.1)."""

    def __init__(self, kind: spec.RelativeBias, num_heads: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(kind.num_buckets, num_heads))

    def forward(self, num_queries: int, places: Int[Tensor, "R S"], dtype: torch.dtype) -> Float[Tensor, "R H T S"]:
        """Return the bias between the last `num_queries` of these positions and all of them, in the weight's dtype."""
        distance = places[:, None, :] - places[:, places.shape[1] - num_queries :, None]
        return self.weight[self._buckets(distance)].permute(0, 3, 1, 2)

    def by_distance(self, reach: int) -> Float[Tensor, "H distances"]:
        """Return the bias by the distance of a key from its query, from -reach to reach."""
        return self.weight.detach()[self._buckets(torch.arange(-reach, reach + 1))].T

    def _buckets(self, distance: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        buckets = self.kind.num_buckets
        if self.kind.bidirectional:
            buckets //= 2
            start, distance = (distance > 0).long() * buckets, distance.abs()
        else:
            start, distance = torch.zeros_like(distance), (-distance).clamp(min=0)
        exact = buckets // 2
        ratio = torch.log(distance.float() / exact) / math.log(self.kind.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        return start + torch.where(distance < exact, distance, far)


class Alibi(nn.Module):
    """A bias that falls with the distance of a key (Press et al. 2021, arXiv:2108.12409)."""

    def __init__(self, kind: spec.Alibi, num_heads: int) -> None:
        super().__init__()
        self.kind = kind
        self._slopes = kind.slopes(num_heads)

    def forward(self, num_queries: int, places: Int[Tensor, "R S"], dtype: torch.dtype) -> Float[Tensor, "R H T S"]:
        """Return the bias between the last `num_queries` of these positions and all of them."""
        if self.kind.rounded:
            heights = self.heights(places)
            away = heights[:, :, None, :] - heights[:, :, places.shape[1] - num_queries :, None]
        else:
            distance = places[:, None, :] - places[:, places.shape[1] - num_queries :, None]
            away = torch.unflatten(self.heights(distance.flatten(1)), -1, distance.shape[1:])
        return -away.abs().to(dtype)

    def heights(self, places: Int[Tensor, "R S"]) -> Float[Tensor, "R H S"]:
        """Return slope * position."""
        dtype = torch.bfloat16 if self.kind.rounded else torch.float32
        slopes = torch.tensor(self._slopes, dtype=dtype, device=places.device)[:, None]
        return (slopes * places[:, None].to(dtype)).float() * self.kind.scale

    def by_distance(self, reach: int) -> Float[Tensor, "H distances"]:
        """Return the bias by the distance of a key from its query, from -reach to reach."""
        return -self.heights(torch.arange(-reach, reach + 1)[None])[0].abs()


def build_relative_bias(kind: spec.RelativeBias | spec.Alibi, num_heads: int) -> RelativeBias | Alibi:
    """Return the module of a bias."""
    return RelativeBias(kind, num_heads) if isinstance(kind, spec.RelativeBias) else Alibi(kind, num_heads)


@dataclass(frozen=True, slots=True)
class Distances:
    """A stack's `RelativeTable` for one pass.

    Args:
        table: Its vectors.
        rows: The row of every query and key.
    """

    table: Float[Tensor, "rows D"]
    rows: Int[Tensor, "#R 1 T S"]


class RelativeTable(nn.Module):
    """A learned vector per distance (He et al. 2020, arXiv:2006.03654)."""

    def __init__(self, kind: spec.RelativeTable, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(2 * kind.span, hidden_size))
        self.norm = build_norm(kind.norm, hidden_size) if kind.norm else None

    def forward(self, num_keys: int, places: Int[Tensor, "R S"] | None = None) -> Distances:
        """Return the table, and the rows between `num_keys` positions.

        Args:
            places: Positions of each row's tokens; by default their indices.
        """
        if places is None:
            places = torch.arange(num_keys, device=self.weight.device)[None]
        distance = (places[:, :, None] - places[:, None, :])[:, None]
        rows = (self._buckets(distance) + self.kind.span).clamp(0, 2 * self.kind.span - 1)
        return Distances(self.weight if self.norm is None else self.norm(self.weight), rows)

    def _buckets(self, distance: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        exact, most = self.kind.span // 2, self.kind.max_distance
        if most is None:
            return distance
        far = torch.log(distance.abs().clamp(min=exact) / exact)
        share = far / torch.log(torch.tensor((most - 1) / exact))  # one kind of logarithm: 1 must be reached exactly
        far = torch.ceil(share * (exact - 1)).long() + exact
        return torch.where(distance.abs() <= exact, distance, far * distance.sign())


def token_positions(
    kind: spec.Position,
    counted: Bool[Tensor, "R Tk"] | None,
    *,
    rows: int,
    length: int,
    past: int,
    device: torch.device,
    starts: Int[Tensor, "R T"] | None = None,
) -> Int[Tensor, "R T"]:
    """Return the rows in the position table, or the positions for rotary angles, of `length` tokens after `past`.

    The position of a token is the number of real tokens before it; padding does not count.

    Args:
        counted: True at past and new tokens that are not padding; None if there is no padding.
        starts: Start of the segment of every token, where positions start at 0 again; only without `past`.
    """
    if counted is None:
        place = torch.arange(past, past + length, device=device).expand(rows, length)
        place = place if starts is None else place - starts
    else:
        place = places_of(counted)
        place = (place if starts is None else place - place.gather(1, starts))[:, past:]
    if (skipped := spec.skipped_pads(kind)) is None:
        return place + spec.first_row(kind)
    row = place + skipped.padding_position + 1
    return row if counted is None else row.where(counted[:, past:], skipped.padding_position)


def places_of(real: Bool[Tensor, "R T"]) -> Int[Tensor, "R T"]:
    """Return the number of real tokens before each token; padding after the last real token counts as well."""
    count = real.long()
    behind = torch.arange(1, real.shape[1] + 1, device=real.device)
    last = (behind * count).amax(1, keepdim=True)
    return count.cumsum(1) - count + (behind - 1 - last).clamp(min=0)


def stands_together(real: Bool[Tensor, "R T"]) -> bool:
    """True if the real tokens of every row are contiguous, so that indices give their distances."""
    begins = (real[:, 1:] & ~real[:, :-1]).sum(1) + real[:, 0]
    return bool((begins <= 1).all())
