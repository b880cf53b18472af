"""A model with random weights whose results have natural lengths: each source has its own, and no setting says so."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from conjoin import BartConfig, BertConfig, BertTokenizer, EncoderDecoderConfig, EncoderDecoderModel

_FIRST = 1000
"""Ids below are special ones of a vocabulary."""


def texts_of(count: int, seed: int = 0, *, shortest: int = 6, longest: int = 94, median: float = 26.0) -> list[str]:
    """Return sources whose lengths are spread as those of sentences are: log-normal, bounded. A word is a token."""
    chance = random.Random(seed)
    lengths = [round(min(longest, max(shortest, chance.lognormvariate(0, 0.6) * median))) for _ in range(count)]
    return [" ".join(f"w{chance.randrange(_FIRST, 30000)}" for _ in range(length)) for length in lengths]


def bert_base() -> EncoderDecoderModel:
    """Return bert-base x bert-base with random weights."""
    torch.manual_seed(0)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(), BertConfig())
    model = _enliven(EncoderDecoderModel(config=config).eval())
    model.config.decoder_start_token_id, model.config.eos_token_id, model.config.pad_token_id = 101, 102, 0
    model.generation_config.max_new_tokens = 128
    return model


def bart_base() -> EncoderDecoderModel:
    """Return bart-base with random weights."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=30522,
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
        forced_eos_token_id=None,
    )
    model = _enliven(EncoderDecoderModel(config=config).eval())
    model.config.decoder_start_token_id = 0  # not the end id, whose row `end_naturally` changes
    model.generation_config.max_new_tokens = 128
    model.generation_config.forced_eos_token_id = None
    return model


def _enliven(model: EncoderDecoderModel) -> EncoderDecoderModel:
    """Widen weights so that results do not repeat one token: as they are drawn, a tied decoder copies its input."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("mlp.up.weight", "mlp.down.weight", "positions.weight")):
                parameter.mul_(5)
    return model


def word_tokenizer(folder: Path, special: dict[int, str], **names: str) -> Any:
    """Return a tokenizer of whole words: token i is written "wi", but for the special ones."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [special.get(index, f"w{index}") for index in range(30522)]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **names}))
    return BertTokenizer.from_pretrained(folder)


def end_naturally(model: EncoderDecoderModel, texts: list[list[int]], steps: int = 96) -> list[int]:
    """Change the end id's row of the vocabulary so that each source's greedy result ends where it should.

    The row becomes a direction in which the head's states grow with the distance to a length that is drawn for each
    source around its own length; found by least squares over results without an end.

    Returns:
        The lengths of the greedy results.
    """
    chance, eos = random.Random(1), int(model.config.eos_token_id)
    states: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    decoder: Any = model.decoder
    kept: list[torch.Tensor] = []
    if decoder.head.norm is not None:
        hook = decoder.head.norm.register_forward_hook(lambda *given: kept.append(given[-1].detach()))
    else:
        hook = decoder.head.register_forward_pre_hook(lambda _, given: kept.append(given[0].detach()))
    for batch in batched(texts):
        ids, mask = padded(batch)
        result: Any = model.generate(ids, attention_mask=mask, max_new_tokens=steps, suppress_tokens=[eos], num_beams=1)
        kept.clear()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=result[:, :-1]).logits
        logits[..., eos] = -1e9
        for row, text in enumerate(batch):
            states.append(kept[-1].reshape(*logits.shape[:2], -1)[row])
            others.append(logits[row].max(-1).values)
            length = min(steps - 4, max(3, round(len(text) * chance.lognormvariate(0, 0.35))))
            wanted.append(torch.arange(logits.shape[1]) - float(length))
    hook.remove()
    x, y = torch.cat(states), torch.cat(wanted).clamp(-6, 6) + torch.cat(others)
    x = torch.cat((x, torch.ones(len(x), 1)), 1).double()
    found = torch.linalg.solve(x.T @ x + 1e-2 * torch.eye(x.shape[1]).double(), x.T @ y.double()).float()
    with torch.no_grad():
        decoder.embed.words.weight[eos] = found[:-1]
        decoder.head.bias[eos] = found[-1]
    lengths: list[int] = []
    for batch in batched(texts):
        ids, mask = padded(batch)
        result = model.generate(ids, attention_mask=mask, num_beams=1)
        lengths += [row.index(eos) if eos in row else len(row) for row in result[:, 1:].tolist()]
    return lengths


def batched(texts: list[list[int]], size: int = 24) -> list[list[list[int]]]:
    """Return batches of texts."""
    return [texts[first : first + size] for first in range(0, len(texts), size)]


def padded(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of texts, padded on the right."""
    longest = max(map(len, texts))
    ids = [[*text, *[0] * (longest - len(text))] for text in texts]
    mask = [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
    return torch.tensor(ids), torch.tensor(mask)
