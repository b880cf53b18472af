"""Rows with padding in every place."""

import torch
from torch import Tensor

import oracle
from conjoin import EncoderDecoderModel
from oracle_tiny import TINY
from pairs import stir
from tiny_models import config, joined

FAMILIES = [key for key in TINY if oracle.can_decode(key) and not key.endswith("/dynamic")]
CAUSAL = [key for key in FAMILIES if oracle.model_type(key) not in oracle.WHOLE_FAMILIES]
ROWS = [[12, 20, 31, 44, 17, 25, 39, 41], [19, 22, 50], [33, 15, 27, 38, 14]]
WIDE = 10
SIDES = ["left", "right", "both", "between"]


def where(side: str, length: int) -> list[int]:
    """The columns of a row's real tokens."""
    spare = WIDE - length
    match side:
        case "left":
            return list(range(spare, WIDE))
        case "right":
            return list(range(length))
        case "both":
            return list(range(spare // 2, spare // 2 + length))
        case _:
            return [0, *range(1 + spare // 2, length + spare // 2), WIDE - 1][:length]


def padded(side: str, rows: list[list[int]] = ROWS, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask."""
    ids, mask = torch.full((len(rows), WIDE), pad), torch.zeros(len(rows), WIDE, dtype=torch.long)
    for at, row in enumerate(rows):
        columns = where(side, len(row))
        ids[at, columns], mask[at, columns] = torch.tensor(row), 1
    return ids, mask


def whole_or_joined(key: str) -> EncoderDecoderModel:
    if key in CAUSAL:
        return joined("bert", key)
    return stir(EncoderDecoderModel(config=config(key)))


PROMPTS = [[9, 20, 33, 41], [9, 27], [9]]
