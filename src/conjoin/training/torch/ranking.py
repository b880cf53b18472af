"""Calibration: a model that gives better candidates higher probabilities."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.torch.model.loss import IGNORED, token_loss
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.batching import Batch
from conjoin.training.data.candidates import RankedExamples
from conjoin.training.data.tokenized import BESIDE_SOURCE, SOURCE
from conjoin.training.torch.collate import Collator, needed_inputs
from conjoin.training.torch.objectives import Divisors, Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingObjective:
    """Better candidates get higher scores: the ranking loss of BRIO (Liu et al. 2022, arXiv:2203.16804).

    It stands beside cross-entropy of the targets. Of two candidates of a source, the better one must score higher by
    the margin times the ranks between them. The losses of pairs of candidates that are as many ranks apart are
    averaged, and these averages summed, as in BRIO's code; candidates of equal utility are not compared. The source is
    encoded once.

    Args:
        model: The model itself, which a step's `forward` may wrap.
        weight, likelihood: Of the ranking loss, and of the cross-entropy of the targets.
        margin: Margin for each rank.
        length_penalty: A candidate's score is its log-probability / length ** length_penalty.
    """

    model: EncoderDecoderModel
    smoothing: float = 0.0
    weight: float = 10.0
    likelihood: float = 0.1
    margin: float = 0.1
    length_penalty: float = 0.6

    def inputs(self, collator: Collator, batch: Batch) -> Inputs:
        """Return the tensors of a batch, on the CPU: a row for each target, then one for each candidate."""
        examples = collator.examples
        assert isinstance(examples, RankedExamples)
        candidates, rows, utilities = examples.candidates_of(batch)
        targets = [examples.labels[index] for (index,) in batch]
        all_labels = [torch.from_numpy(np.asarray(ids, np.int64)) for ids in (*targets, *candidates)]
        labels = nn.utils.rnn.pad_sequence(all_labels, batch_first=True, padding_value=IGNORED)
        weights = [1.0] * len(batch) if examples.weights is None else examples.weights[[i for (i,) in batch]].tolist()
        return {
            **collator.sources(batch),
            **needed_inputs(self.model, labels),
            "labels": labels,
            "rows": torch.tensor([*range(len(batch)), *rows]),
            "utilities": torch.tensor(utilities, dtype=torch.float64),
            "pair_weights": torch.tensor(weights, dtype=torch.float32),
        }

    def loss(self, forward: nn.Module, inputs: Inputs, divisors: Divisors) -> Float[Tensor, ""]:
        """Return the loss of a batch."""
        rows, labels, weights = inputs["rows"], inputs["labels"], inputs["pair_weights"]
        sources: Any = {name: inputs[name] for name in (SOURCE, *BESIDE_SOURCE) if name in inputs}
        encoded = self.model.encoder(**sources, return_dict=True).last_hidden_state
        arguments: Any = {name: tensor for name, tensor in inputs.items() if name.startswith("decoder_")}
        if "attention_mask" in sources:
            arguments["attention_mask"] = sources["attention_mask"][rows]
        logits = forward(encoder_outputs=(encoded.index_select(0, rows),), **arguments, use_cache=False).logits
        pairs = len(weights)
        likelihood = token_loss(
            logits[:pairs],
            labels[:pairs],
            num_items=divisors.labels,
            label_smoothing=self.smoothing,
            weights=weights[:, None].expand(labels[:pairs].shape),
        )
        scores = candidate_scores(logits[pairs:], labels[pairs:], self.length_penalty)
        ranking = ranking_loss(scores, inputs["utilities"], rows[pairs:], weights, self.margin)
        return self.likelihood * likelihood + self.weight * ranking / divisors.pairs


def candidate_scores(
    logits: Float[Tensor, "C T V"], labels: Int[Tensor, "C T"], length_penalty: float
) -> Float[Tensor, " C"]:
    """Return log-probability / length ** length_penalty of every candidate, the end token included."""
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    lengths = (labels != IGNORED).sum(1).clamp(min=1)
    return -losses.sum(1) / lengths**length_penalty


def ranking_loss(
    scores: Float[Tensor, " C"],
    utilities: Float[Tensor, " C"],
    rows: Int[Tensor, " C"],
    weights: Float[Tensor, " B"],
    margin: float,
) -> Float[Tensor, ""]:
    """Return the ranking losses of all pairs, summed.

    Args:
        scores, utilities: Of every candidate; those of a pair are neighbours, best first.
        rows: The pair of each candidate.
        weights: Weight of each pair.
    """
    counts = torch.bincount(rows, minlength=len(weights))
    total = scores.new_zeros(())
    for apart in range(1, int(counts.max()) if len(rows) else 1):
        is_same = rows[apart:] == rows[:-apart]
        differs = is_same & (utilities[apart:] < utilities[:-apart])
        losses = F.relu(scores[apart:] - scores[:-apart] + margin * apart) * differs
        share = weights / (counts - apart).clamp(min=1)
        total = total + (losses * share[rows[apart:]]).sum()
    return total
