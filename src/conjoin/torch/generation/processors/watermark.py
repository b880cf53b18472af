"""The watermark of green tokens (Kirchenbauer et al. 2023, arXiv:2306.04634)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.generation.processors.calling import RowwiseProcessor

_TABLE_SIZE = 1_000_003
_CANDIDATES = 40
"""Tokens that "selfhash" tries per step."""
_SEEDS = 2**64 - 1


class WatermarkLogitsProcessor(RowwiseProcessor):
    """Raise the scores of the green part of the vocabulary, which the tokens before choose.

    A row at a time, since each seeds its own shuffle; numbers are torch's, so that transformers' detector finds them.

    Args:
        vocab_size: Of the scores; None takes it from them.
        device: Where shuffles are made; the detector must use the same kind of device.
    """

    def __init__(
        self,
        vocab_size: int | None,
        device: torch.device | str,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        if seeding_scheme not in ("selfhash", "lefthash"):
            raise GenerationError(f"seeding_scheme = {seeding_scheme!r}: expected 'lefthash' or 'selfhash'.")
        if not 0 < greenlist_ratio < 1:
            raise GenerationError(f"greenlist_ratio = {greenlist_ratio!r}: expected a number in (0, 1).")
        self.vocab_size = vocab_size
        self.ratio = greenlist_ratio
        self.bias = bias
        self.key = hashing_key
        self.hashes_itself = seeding_scheme == "selfhash"
        self.context_width = context_width
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(hashing_key)
        self.table = torch.randperm(_TABLE_SIZE, generator=self.generator, device=device)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        if input_ids.shape[1] < self.context_width:
            return scores
        self.vocab_size = self.vocab_size or scores.shape[1]
        raised = scores.clone()
        for row, ids in enumerate(input_ids):
            green = self._green_candidates(ids, scores[row]) if self.hashes_itself else self._green(ids)
            raised[row, green] += self.bias
        return raised

    def _green(self, ids: Int[Tensor, " t"]) -> Int[Tensor, " g"]:
        assert self.vocab_size is not None
        self.generator.manual_seed(self._seed(ids) % _SEEDS)
        order = torch.randperm(self.vocab_size, device=self.generator.device, generator=self.generator)
        return order[: int(self.vocab_size * self.ratio)].to(ids.device)

    def _seed(self, ids: Int[Tensor, " t"]) -> int:
        if not self.hashes_itself:
            return self.key * int(ids[-1])
        context = self.table.to(ids.device)
        a = context[ids[-self.context_width :] % _TABLE_SIZE] + 1
        b = context[ids[-1] % _TABLE_SIZE] + 1
        return int((self.key * a * b).min())

    def _green_candidates(self, ids: Int[Tensor, " t"], scores: Float[Tensor, " V"]) -> Int[Tensor, " g"]:
        """The best tokens that are green where they themselves are part of the seed."""
        best = scores.sort(dim=-1, descending=True).indices[:_CANDIDATES]
        chosen = [token for token in best if bool((self._green(torch.cat((ids, token[None]))) == token).any())]
        return torch.stack(chosen) if chosen else best[:0]
