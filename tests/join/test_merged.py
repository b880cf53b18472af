"""Merged attention: the decoder's self-attention reads the encoder's output in one softmax with the target."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oracle
from conjoin import spec
from conjoin.errors import JoinError
from conjoin.torch.model import route
from conjoin.torch.pair.model import EncoderDecoderModel
from source_readers import SOURCES, TARGETS, ids_of, language_model, rows_of

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


PLAIN = ("llama/biases", "qwen3", "gemma2", "olmo2/grouped", "gpt_neox", "mistral", "distilbert")
"""Decoders that are held to plain steps: every place of a norm, and all that attention varies in."""


def merged(folder: Path, encoder: Path | None = None, **settings: Any) -> EncoderDecoderModel:
    return EncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder or folder, folder, cross_attention_init="merged", decoder_start_token_id=oracle.START_ID, **settings
    )


def rotated(x: Tensor, kind: spec.Rotary | None, first: int = 0) -> Tensor:
    """Heads [H, T, E] at positions first, first + 1 ..., as complex numbers of two halves."""
    if kind is None:
        return x
    half = kind.rotary_size // 2
    turns = torch.arange(first, first + x.shape[1])[:, None] / kind.base ** (torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(torch.ones_like(turns), turns)
    return torch.cat((turned.real, turned.imag, x[..., 2 * half :]), -1)


def heads(attn: Any, name: str, x: Tensor) -> Tensor:
    """The heads [H or K, T, E] of a projection, with its norm."""
    y, norm = getattr(attn, name)(x), getattr(attn, f"{name}_norm", None)
    size, qk = attn.kind.head_size, attn.kind.qk_norm
    if norm is not None and qk.over == "projection":
        return norm(y).unflatten(-1, (-1, size)).transpose(0, 1)
    y = y.unflatten(-1, (-1, size)).transpose(0, 1)
    return y if norm is None else norm(y)


def plain_attention(block: Any, x: Tensor, source: Tensor) -> Tensor:
    """What self-attention adds, for one row without padding: [T, D] behind the norm, [S, D] of the encoder."""
    attn, kind, rotary = block.self_attn, block.self_attn.kind, block.kind.self_attn.rotary
    q = rotated(heads(attn, "q", x), rotary)
    own, read = rotated(heads(attn, "k", x), rotary), heads(attn, "k", source)
    keys, values = torch.cat((own, read), 1), torch.cat((heads(attn, "v", x), heads(attn, "v", source)), 1)
    out: list[Tensor] = []
    for head in range(kind.num_heads):
        group = head // (kind.num_heads // kind.num_kv_heads)
        scores = q[head] @ keys[group].T * kind.scale
        if kind.softcap is not None:
            scores = kind.softcap * torch.tanh(scores / kind.softcap)
        away = torch.arange(len(x))[:, None] - torch.arange(len(x))
        hidden = (away < 0) | (away >= (block.kind.self_attn.window or len(x)))
        scores[:, : len(x)] = scores[:, : len(x)].masked_fill(hidden, float("-inf"))
        out.append(scores.softmax(-1) @ values[group])
    return attn.o(torch.cat(out, -1))


def plain_block(block: Any, x: Tensor, source: Tensor) -> Tensor:
    def norm(named: spec.NamedNorm, y: Tensor) -> Tensor:
        name, kind = named
        return y if kind is None else getattr(block, name)(y)

    start = x
    for branch in ("self_attn", "mlp"):
        pre, out, post = block.kind.norms_of(branch)
        y = norm(pre, start if block.kind.parallel else x)
        y = plain_attention(block, y, source) if branch == "self_attn" else block.mlp(y)
        x = norm(post, x + norm(out, y))
    return x


@pytest.mark.parametrize("key", PLAIN)
@torch.no_grad()
def test_every_block_reads_target_and_source_in_one_softmax(key: str, tmp_path: Path) -> None:
    language_model(key, tmp_path)
    pair = merged(tmp_path)
    assert not pair.join_report.fresh
    source, source_mask = ids_of(key, SOURCES)
    target, _ = ids_of(key, (5, 5, 5), 2)
    out = pair(
        input_ids=source,
        attention_mask=source_mask,
        decoder_input_ids=target,
        output_hidden_states=True,
        use_cache=False,
    )
    states = rows_of(out.encoder_last_hidden_state, source_mask)
    final = pair.decoder.final_norm or nn.Identity()
    for layer, index in enumerate(pair.spec.decoder.weights_of):
        before, after = out.decoder_hidden_states[layer : layer + 2]
        block = pair.decoder.blocks[index]
        for row, read in enumerate(states):
            expected = plain_block(block, before[row], read)
            expected = final(expected) if layer == len(pair.spec.decoder.weights_of) - 1 else expected
            torch.testing.assert_close(after[row], expected, **CLOSE)


@pytest.mark.parametrize("key", ["mistral", "gemma2", "gpt2", "t5"])
@pytest.mark.usefixtures("passes")
def test_steps_and_beams_give_what_a_whole_pass_gives(key: str, tmp_path: Path) -> None:
    if key == "t5":
        oracle.save_whole(key, tmp_path)
    else:
        language_model(key, tmp_path)
    pair = merged(tmp_path)
    source, mask = ids_of(key, SOURCES)
    result = pair.generate(
        source,
        attention_mask=mask,
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=6,
        min_new_tokens=6,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ids = result.sequences
    logits = pair(
        input_ids=source.repeat_interleave(3, 0), attention_mask=mask.repeat_interleave(3, 0), decoder_input_ids=ids
    ).logits
    scores = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None]).sum((1, 2))
    torch.testing.assert_close(result.sequences_scores, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", ["mistral", "mistral/full", "gpt2"])
def test_packed_rows_learn_what_padded_ones_do(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model(key, tmp_path)
    pair = merged(tmp_path).train()
    (source, source_mask), (target, target_mask) = ids_of(key, SOURCES), ids_of(key, TARGETS, 2)
    labels = target.masked_fill(target_mask == 0, -100)

    def step() -> list[Tensor]:
        pair.zero_grad()
        loss = pair(input_ids=source, attention_mask=source_mask, labels=labels, output_logits=False).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in pair.parameters() if p.grad is not None)]

    packed = step()
    monkeypatch.setattr(route, "can_pack", lambda stack, mask: False)
    for one, other in zip(packed, step(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    language_model("qwen3/full", tmp_path / "lm")
    pair = merged(tmp_path / "lm", share="embeddings")
    pair.save_pretrained(tmp_path / "pair")
    saved = json.loads((tmp_path / "pair" / "config.json").read_text())
    assert saved["model_type"] == "conjoin"
    assert saved["conjoin"] == {"share": "embeddings", "cross_attention_init": "merged"}
    again, batch = EncoderDecoderModel.from_pretrained(tmp_path / "pair"), oracle.batch_for("qwen3/full")
    torch.testing.assert_close(again(**batch).logits, pair(**batch).logits, rtol=0, atol=0)


def test_a_checkpoints_own_cross_attention_is_left_out_and_named(tmp_path: Path) -> None:
    oracle.save_whole("t5", tmp_path)
    unused = merged(tmp_path).join_report.unused
    assert any("EncDecAttention" in name for names in unused.values() for name in names)


def test_widths_must_agree(tmp_path: Path) -> None:
    language_model("bert", tmp_path / "bert")
    language_model("llama", tmp_path / "llama")
    with pytest.raises(JoinError, match="bert has hidden_size 20, llama 12"):
        merged(tmp_path / "llama", tmp_path / "bert")
