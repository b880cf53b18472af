"""Padding changes nothing, wherever it stands: a padded row is read as the same row alone, whatever its positions."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, product
from typing import Any

import pytest
import torch
from torch import Tensor

from conjoin.torch.model import route
from conjoin.torch.pair.halves import Decoder, Encoder
from lanes import lanes, lanes_of_keys
from oracle_tiny import TINY
from padded_rows import CAUSAL, FAMILIES, PROMPTS, ROWS, SIDES, WIDE, padded, where, whole_or_joined
from pairs import stir
from tiny_models import config, joined

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@contextmanager
def unpacked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route, "can_pack", lambda stack, mask: False)
        yield


def check_rows(states: Tensor, side: str, alone: list[Tensor]) -> None:
    for at, (row, expected) in enumerate(zip(ROWS, alone, strict=True)):
        torch.testing.assert_close(states[at, where(side, len(row))], expected[0], **CLOSE)


def pad_of(key: str, side: str) -> int:
    """The family's own pad, or an ordinary id in its place: the mask alone says what is padding."""
    return 21 if side in ("both", "between") else TINY[key].get("pad_token_id") or 0


@pytest.mark.parametrize("key", lanes_of_keys(FAMILIES))
def test_an_encoder_reads_a_padded_row_as_it_reads_it_alone(key: str) -> None:
    encoder = stir(Encoder.from_config(config(key)))
    with torch.no_grad():
        alone = [encoder(torch.tensor([row])).last_hidden_state for row in ROWS]
        for side in SIDES:
            ids, mask = padded(side, pad=pad_of(key, side))
            check_rows(encoder(ids, mask).last_hidden_state, side, alone)
            with unpacked():
                check_rows(encoder(ids, mask).last_hidden_state, side, alone)


@pytest.mark.parametrize("key", lanes_of_keys(CAUSAL))
def test_a_decoder_reads_a_padded_row_as_it_reads_it_alone(key: str) -> None:
    model = joined("bert", key)
    source = torch.randn(1, 4, model.encoder.spec.hidden_size)
    with torch.no_grad():
        states = model.project(source)
        alone = [model.decoder(torch.tensor([row]), None, states).logits for row in ROWS]
        for side in SIDES:
            ids, mask = padded(side, pad=pad_of(key, side))
            check_rows(model.decoder(ids, mask, states).logits, side, alone)
            check_rows(stepwise(model.decoder, ids, mask, states), side, alone)


def stepwise(decoder: Decoder, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
    """Logits of positions read by a cache: five at once, then one at a time."""
    out = decoder(ids[:, :5], mask[:, :5], states, use_cache=True)
    logits, cache = [out.logits], out.past_key_values
    for step in range(5, ids.shape[1]):
        out = decoder(ids[:, step : step + 1], mask[:, : step + 1], past_key_values=cache)
        logits.append(out.logits)
    return torch.cat(logits, 1)


ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "contrastive": {"penalty_alpha": 0.5, "top_k": 3},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
}


KEYS = ["bert/small", "gpt2", "roberta/small", "mistral", "bart", "t5/gated"]


@pytest.mark.parametrize(("key", "kind"), lanes(product(KEYS, ASKED), {*zip(KEYS, cycle(ASKED))}.__contains__))
def test_sources_and_prompts_with_padding_are_answered_as_they_are_alone(key: str, kind: str) -> None:
    model = whole_or_joined(key)
    given = {**ASKED[kind], "max_new_tokens": 6, "min_new_tokens": 6}
    alone = [
        model.generate(torch.tensor([row]), decoder_input_ids=torch.tensor([prompt]), **given)[0, len(prompt) :]
        for row, prompt in zip(ROWS, PROMPTS, strict=True)
    ]
    prompts = torch.tensor([[0] * (4 - len(prompt)) + prompt for prompt in PROMPTS])
    real = torch.tensor([[0] * (4 - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    for side in ("left", "between"):
        ids, mask = padded(side)
        found = model.generate(
            ids, attention_mask=mask, decoder_input_ids=prompts, decoder_attention_mask=real, **given
        )
        assert found[:, 4:].tolist() == [row.tolist() for row in alone], side


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("bert", "gpt2"), ("distilbert", "bert/small"), ("modernbert", "opt")]
)
def test_a_padded_source_teaches_what_it_teaches_alone(encoder: str, decoder: str) -> None:
    model = joined(encoder, decoder).eval()
    labels = torch.tensor([[14, 15, 7], [22, 7, -100], [31, 7, -100]])

    def lesson(ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        loss = model(ids, mask, labels=labels, num_items_in_batch=1).loss
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    parts = [
        lesson(torch.tensor([row]), torch.ones(1, len(row)), labels[at : at + 1, : int((labels[at] != -100).sum())])
        for at, row in enumerate(ROWS)
    ]
    for side in SIDES:
        loss, gradients = lesson(*padded(side), labels)
        torch.testing.assert_close(loss, sum(part for part, _ in parts), rtol=1e-4, atol=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, sum(part[name] for _, part in parts), rtol=1e-3, atol=1e-4)


def test_positions_that_the_caller_gives_win() -> None:
    encoder = stir(Encoder.from_config(config("bert")))
    ids, mask = padded("left")
    counted = torch.arange(WIDE)[None].expand_as(ids)
    with torch.no_grad():
        given = encoder(ids, mask, position_ids=counted).last_hidden_state
        own = encoder(ids, mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).last_hidden_state
        derived = encoder(ids, mask).last_hidden_state
    real = mask.bool()
    torch.testing.assert_close(own[real], derived[real], **CLOSE)
    assert not torch.allclose(given[1, real[1]], derived[1, real[1]], atol=1e-2)
