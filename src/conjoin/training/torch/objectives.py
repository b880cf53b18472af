"""What a step minimises: cross-entropy, and what is added to it or put in place of a part of it.

Every loss is a sum over counted labels divided by the number of labels of the whole step, over all its batches and
processes; what compares whole texts is a sum over pairs divided by the number of pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.torch.model.loss import IGNORED, token_loss
from conjoin.training.data.arrays import WEIGHTS
from conjoin.training.data.batching import Batch
from conjoin.training.torch.collate import Collator, batch_loss

Inputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Divisors:
    """What a step divides its sums by.

    Args:
        labels: Number of counted labels of the step, weighted by pair.
        pairs: Number of its pairs.
    """

    labels: float
    pairs: float = 1.0


class Objective(Protocol):
    """The loss of batches."""

    def inputs(self, collator: Collator, batch: Batch) -> Inputs:
        """Return the tensors of a batch, on the CPU."""
        ...

    def loss(self, forward: nn.Module, inputs: Inputs, divisors: Divisors) -> Float[Tensor, ""]:
        """Return the loss of a batch.

        Args:
            forward: The model, as a step calls it.
        """
        ...


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Cross-entropy of labels, computed without keeping logits.

    Args:
        smoothing: Share of every target that is spread over the vocabulary.
    """

    smoothing: float = 0.0

    def inputs(self, collator: Collator, batch: Batch) -> Inputs:
        """Return the tensors of a batch, on the CPU."""
        return collator(batch)

    def loss(self, forward: nn.Module, inputs: Inputs, divisors: Divisors) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        return batch_loss(forward, inputs, divisors.labels, self.smoothing)


class Teacher(Protocol):
    """A model whose probabilities another one learns."""

    def inputs(self, batch: Batch) -> Inputs:
        """Return its tensors of a batch, on the CPU; it may read the sources in tokens of its own."""
        ...

    def logits(self, inputs: Inputs) -> Float[Tensor, "B T V"]:
        """Return its logits at the labels of the batch, without gradient."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Learning a teacher's probabilities (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        teacher: What is learnt from.
        alpha: The loss is (1 - alpha) * cross-entropy + alpha * temperature ** 2 * KL(teacher || model).
        temperature: Both models' logits are divided by this; above 1, unlikely tokens matter more.
    """

    teacher: Teacher
    alpha: float
    temperature: float


_TEACHERS = "teacher."
"""Prefix of the teacher's tensors in a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenObjective:
    """Losses that need the logits of all labels: cross-entropy with a teacher, with R-Drop, or with both.

    Args:
        r_drop: R-Drop's alpha (Wu et al. 2021, arXiv:2106.14448). Each pair is passed twice, with other units dropped;
            the loss is half the paper's: the mean of both losses, and alpha / 2 times the mean of the divergences of
            their probabilities in both directions. 0 is one pass.
    """

    smoothing: float = 0.0
    distillation: Distillation | None = None
    r_drop: float = 0.0

    def inputs(self, collator: Collator, batch: Batch) -> Inputs:
        """Return the tensors of a batch, on the CPU."""
        tensors = collator(batch)
        if self.distillation is not None:
            read = self.distillation.teacher.inputs(batch)
            tensors = tensors | {f"{_TEACHERS}{name}": tensor for name, tensor in read.items()}
        return tensors

    def loss(self, forward: nn.Module, inputs: Inputs, divisors: Divisors) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        own = {name: tensor for name, tensor in inputs.items() if not name.startswith(_TEACHERS)}
        copies = 2 if self.r_drop and forward.training else 1  # without dropout both passes would be the same
        logits = model_logits(forward, {name: torch.cat([tensor] * copies) for name, tensor in own.items()})
        labels, weights = own["labels"], own.get(WEIGHTS)
        counted = labels != IGNORED
        weights = None if weights is None else weights[counted]
        passes = [rows[counted].float() for rows in logits.chunk(copies)]
        wanted = self._teachers_logits(inputs, counted)
        losses = [self._loss(rows, labels[counted], wanted, weights) for rows in passes]
        total = torch.stack(losses).mean()
        if copies == 2:
            total = total + self.r_drop / 2 * symmetric_divergence(passes[0], passes[1], weights)
        return total / divisors.labels

    def _teachers_logits(self, inputs: Inputs, counted: Tensor) -> Tensor | None:
        if self.distillation is None:
            return None
        read = {name.removeprefix(_TEACHERS): x for name, x in inputs.items() if name.startswith(_TEACHERS)}
        return self.distillation.teacher.logits(read)[counted].float()

    def _loss(
        self,
        logits: Float[Tensor, "N V"],
        labels: Int[Tensor, " N"],
        wanted: Float[Tensor, "N V2"] | None,
        weights: Float[Tensor, " N"] | None,
    ) -> Float[Tensor, ""]:
        """Return the summed loss of one pass."""
        likelihood = token_loss(logits, labels, num_items=1.0, label_smoothing=self.smoothing, weights=weights)
        if self.distillation is None or wanted is None:
            return likelihood
        alpha, temperature = self.distillation.alpha, self.distillation.temperature
        size = min(logits.shape[1], wanted.shape[1])  # tables of equal vocabularies may be padded to other sizes
        divergence = token_divergence(wanted[:, :size] / temperature, logits[:, :size] / temperature, weights)
        return (1 - alpha) * likelihood + alpha * temperature**2 * divergence


def model_logits(forward: nn.Module, inputs: Mapping[str, Any]) -> Float[Tensor, "B T V"]:
    """Return the logits of a batch, whose decoder inputs were made with its labels."""
    given = {name: value for name, value in inputs.items() if name not in (WEIGHTS, "labels")}
    return forward(**given, use_cache=False).logits


def token_divergence(
    target: Float[Tensor, "N V"], logits: Float[Tensor, "N V"], weights: Float[Tensor, " N"] | None = None
) -> Float[Tensor, ""]:
    """Return KL(softmax(target) || softmax(logits)), summed over tokens, each as often as its weight says."""
    each = F.kl_div(F.log_softmax(logits, -1), F.log_softmax(target, -1), reduction="none", log_target=True).sum(-1)
    return (each if weights is None else each * weights).sum()


def symmetric_divergence(
    one: Float[Tensor, "N V"], other: Float[Tensor, "N V"], weights: Float[Tensor, " N"] | None = None
) -> Float[Tensor, ""]:
    """Return the mean of the divergences in both directions, summed over tokens."""
    return (token_divergence(one, other, weights) + token_divergence(other, one, weights)) / 2
