"""Grafted cross-attention: held to a plain reference, reached by gradients, silent behind a closed gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oracle
from conjoin import spec
from conjoin.errors import JoinError
from conjoin.families import MODULES, config_from_dict, family
from conjoin.torch.model.block import Block
from conjoin.torch.pair.halves import Decoder
from conjoin.torch.pair.model import EncoderDecoderModel
from lanes import lanes_of_keys

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
GRAFTED = [
    key
    for key in oracle.TINY
    if oracle.model_type(key) in MODULES
    and family(oracle.model_type(key)).decoder == "grafted"
    and not key.endswith("/dynamic")
]


def normalises_after(key: str) -> bool:
    """Whether the decoder is post-norm, so that no gate can hide a branch."""
    config = config_from_dict({"model_type": oracle.model_type(key), **oracle.TINY[key]})
    blocks = family(config.model_type).stack(config, "decoder").blocks
    return any(block.norms.post is not None for block in blocks)


GATED = [key for key in GRAFTED if not normalises_after(key)]


PLAIN = (
    "llama", "llama/biases", "qwen3", "gemma2", "gemma3_text", "gpt_neox", "modernbert", "distilbert", "olmo2/grouped",
    "cohere/normed",
)  # fmt: skip
"""Decoders whose grafted block is held to a plain reference: every place of a norm, and what attention varies in."""


class Plain:
    """Cross-attention of one block in plain steps, a row and a head at a time, over the block's parameters."""

    def __init__(self, block: spec.Block, parameters: dict[str, Tensor]) -> None:
        assert block.cross_attn is not None
        self.norms, self.attention, self.p = block.norms_of("cross_attn"), block.cross_attn.attention, parameters

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = x @ self.p[f"cross_attn.{name}.weight"].T
        return out + self.p[f"cross_attn.{name}.bias"] if f"cross_attn.{name}.bias" in self.p else out

    def norm(self, name: str, kind: spec.Norm | None, x: Tensor, part: slice = slice(None)) -> Tensor:
        if kind is None:
            return x
        assert not isinstance(kind, spec.BareLayerNorm)
        weight, bias = self.p[f"{name}.weight"][part], self.p.get(f"{name}.bias", torch.zeros(1))
        if isinstance(kind, spec.RMSNorm):
            return x / (x.pow(2).mean(-1, keepdim=True) + kind.eps).sqrt() * (weight + kind.offset)
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + kind.eps).sqrt() * weight + bias

    def head(self, number: int, x: Tensor, source: Tensor) -> Tensor:
        kind = self.attention
        size, group = kind.head_size, number // (kind.num_heads // kind.num_kv_heads)
        q, k, v = self.linear("q", x), self.linear("k", source), self.linear("v", source)
        if kind.qk_norm is not None and kind.qk_norm.over == "projection":
            q = self.norm("cross_attn.q_norm", kind.qk_norm.norm, q)
            k = self.norm("cross_attn.k_norm", kind.qk_norm.norm, k)
        asking, read = (slice(n * size, (n + 1) * size) for n in (number, group))
        q, k, v = q[:, asking], k[:, read], v[:, read]
        if kind.qk_norm is not None and kind.qk_norm.over != "projection":
            same = slice(None) if kind.qk_norm.over == "head" else None
            q = self.norm("cross_attn.q_norm", kind.qk_norm.norm, q, same or asking)
            k = self.norm("cross_attn.k_norm", kind.qk_norm.norm, k, same or read)
        scores = q @ k.T * kind.scale
        if kind.softcap is not None:
            scores = kind.softcap * torch.tanh(scores / kind.softcap)
        return scores.softmax(-1) @ v

    def read(self, x: Tensor, source: Tensor, visible: Tensor) -> Tensor:
        rows = (
            torch.cat([self.head(number, row, words[real.bool()]) for number in range(self.attention.num_heads)], -1)
            for row, words, real in zip(x, source, visible, strict=True)
        )
        return self.linear("o", torch.stack(list(rows)))

    def block_step(self, x: Tensor, source: Tensor, visible: Tensor) -> Tensor:
        """What the residual stream is after the branch, given what it was before."""
        pre, out, post = self.norms
        return self.norm(*post, x + self.norm(*out, self.read(self.norm(*pre, x), source, visible)))


def save_lm(key: str, folder: Path) -> Any:
    """Save a decoder without cross-attention, with its head."""
    without = oracle.model_type(key) in oracle.WITHOUT_CAUSAL_LM  # then its masked LM is made causal
    return oracle.save_encoder(key, folder, head="mlm") if without else oracle.save_decoder(key, folder)


def joined(key: str, folder: Path, encoder: str = "bert", **settings: Any) -> EncoderDecoderModel:
    """Join a BERT and a decoder that lacks cross-attention."""
    oracle.save_encoder(encoder, folder / "encoder")
    save_lm(key, folder / "decoder")
    return EncoderDecoderModel.from_encoder_decoder_pretrained(folder / "encoder", folder / "decoder", **settings)


@torch.no_grad()
def randomise_fresh(model: EncoderDecoderModel) -> None:
    """Move every grafted parameter well off its start."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in model.join_report.fresh:
        parameters[name].add_(torch.randn(parameters[name].shape) * 0.3)


def inputs_for(key: str) -> dict[str, Tensor]:
    """A padded batch of both sides."""
    return oracle.batch_for("bert", key)


def decode(model: EncoderDecoderModel, batch: dict[str, Tensor]) -> Tensor:
    """Logits, without gradients."""
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    with torch.no_grad():
        return model(**{name: batch[name] for name in names}).logits


def spied(block: Block, run: Callable[[], Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Run, and return what went into and came out of each of the block's modules, and of the block (under "")."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0], out)}))
        for name, module in block.named_modules()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def around_cross_attention(block: Block, seen: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The residual stream before and after the cross-attention branch."""
    if block.kind.parallel:
        before, after = seen[""]
        return before, after - seen["self_attn.o"][1] - seen["mlp"][1]
    if block.kind.norms.post is not None:
        return seen["self_attn_norm"][1], seen["mlp"][0]
    if block.kind.norms.pre is None:
        return seen["cross_attn.q"][0], seen["mlp"][0]
    return seen["cross_attn_norm"][0], seen["mlp_norm"][0]


@pytest.mark.parametrize("key", PLAIN)
def test_a_grafted_block_computes_what_the_plain_reference_computes(key: str, tmp_path: Path) -> None:
    model = joined(key, tmp_path)
    randomise_fresh(model)
    batch, block = inputs_for(key), model.decoder.blocks[1]
    with torch.no_grad():
        source = model.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        before, after = around_cross_attention(block, spied(block, lambda: decode(model, batch)))
        plain = Plain(block.kind, dict(block.named_parameters()))
        expected = plain.block_step(before, source, batch["attention_mask"])
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(after, expected, **CLOSE)


def gradients(model: EncoderDecoderModel, key: str) -> dict[str, float]:
    """Largest absolute gradient of every fresh parameter."""
    batch = inputs_for(key)
    loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    loss.backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {name: parameters[name].grad for name in model.join_report.fresh}
    return {name: 0.0 if grad is None else grad.abs().max().item() for name, grad in found.items()}


def unreached(found: dict[str, float]) -> list[str]:
    """Fresh parameters without gradient; a bias of the keys shifts all scores of a query alike, so it never has one."""
    shifts = ("cross_attn.k.bias", "cross_attn.k_norm.bias")
    return [name for name, size in found.items() if size < 1e-7 and not name.endswith(shifts)]


@pytest.mark.parametrize("key", lanes_of_keys(GRAFTED))
def test_gradients_reach_every_grafted_parameter(key: str, tmp_path: Path) -> None:
    model = joined(key, tmp_path, decoder_start_token_id=oracle.START_ID)
    fresh = [name for name in model.join_report.fresh if not name.startswith("decoder.head.")]
    assert fresh and all(".cross_attn" in name for name in fresh)
    randomise_fresh(model)
    assert unreached(gradients(model, key)) == []


@pytest.mark.parametrize("key", lanes_of_keys(GATED))
def test_behind_a_closed_gate_the_decoder_is_the_language_model_that_it_was(key: str, tmp_path: Path) -> None:
    model = joined(key, tmp_path, cross_attention_init="zero_gate")
    batch = inputs_for(key)
    with torch.no_grad():
        alone = Decoder.from_pretrained(tmp_path / "decoder")(
            batch["decoder_input_ids"], batch["decoder_attention_mask"]
        ).logits
    assert torch.equal(decode(model, batch), alone)


@pytest.mark.parametrize("key", lanes_of_keys(GATED))
def test_a_closed_gate_can_learn_to_open_and_an_open_one_lets_gradients_through(key: str, tmp_path: Path) -> None:
    start = {"decoder_start_token_id": oracle.START_ID}
    model = joined(key, tmp_path, cross_attention_init="zero_gate", **start)
    gates = [name for name in model.join_report.fresh if name.endswith(".gate")]
    found = gradients(model, key)
    assert len(gates) == model.decoder.spec.num_layers
    assert all(found[name] > 1e-7 for name in gates)
    randomise_fresh(model)
    assert unreached(gradients(model, key)) == []


@pytest.mark.parametrize("key", ["llama", "gemma2", "gpt_neox"])
def test_a_gate_scales_what_the_branch_adds_inside_a_sandwich_too(key: str, tmp_path: Path) -> None:
    model = joined(key, tmp_path, cross_attention_init="zero_gate")
    randomise_fresh(model)
    batch, block = inputs_for(key), model.decoder.blocks[0]
    assert block.cross_attn is not None and block.cross_attn.gate is not None
    added = []
    for gate in (1.0, 0.25):
        nn.init.constant_(block.cross_attn.gate, gate)
        before, after = around_cross_attention(block, spied(block, lambda: decode(model, batch)))
        added.append(after - before)
    torch.testing.assert_close(added[0] * 0.25, added[1], **CLOSE)


def test_a_post_norm_decoder_refuses_a_gate_since_its_norms_change_the_stream_anyway(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match="distilbert normalises after every branch"):
        joined("distilbert", tmp_path, cross_attention_init="zero_gate")


SAVED = [(key, "normal") for key in PLAIN] + [(key, "zero_gate") for key in PLAIN if key in GATED]


@pytest.mark.parametrize(("key", "init"), SAVED)
def test_a_grafted_pair_and_its_decoder_alone_survive_saving(key: str, init: str, tmp_path: Path) -> None:
    model = joined(key, tmp_path, cross_attention_init=init)
    randomise_fresh(model)
    model.save_pretrained(tmp_path / "pair")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "pair")
    assert torch.equal(decode(again, inputs_for(key)), decode(model, inputs_for(key)))
    model.decoder.save_pretrained(tmp_path / "half")
    half = dict(Decoder.from_pretrained(tmp_path / "half").named_parameters())
    assert half.keys() == dict(model.decoder.named_parameters()).keys()
    assert all(torch.equal(half[name], parameter) for name, parameter in model.decoder.named_parameters())


@pytest.mark.parametrize("key", ["llama", "qwen3", "gemma2", "gpt_neox", "modernbert-decoder"])
def test_cached_steps_of_a_grafted_decoder_give_what_one_pass_gives(key: str, tmp_path: Path) -> None:
    model = joined(key, tmp_path)
    randomise_fresh(model)
    batch = inputs_for(key)
    source, mask, ids = batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"]
    with torch.no_grad():
        full = model(input_ids=source, attention_mask=mask, decoder_input_ids=ids).logits
        first = model(input_ids=source, attention_mask=mask, decoder_input_ids=ids[:, :4], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for step in range(4, ids.shape[1]):
            word = ids[:, step : step + 1]
            pieces.append(model(attention_mask=mask, decoder_input_ids=word, past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(pieces, 1), full, **CLOSE)


@pytest.mark.parametrize(("encoder", "copied"), [("bert/small", "qkvo"), ("bert", "qo")])
def test_self_attention_init_copies_what_the_widths_permit(encoder: str, copied: str, tmp_path: Path) -> None:
    model = joined("gemma2", tmp_path, encoder=encoder, cross_attention_init="self_attention")
    for block in model.decoder.blocks:
        p = dict(block.named_parameters())
        alike = [x for x in "qkvo" if p[f"cross_attn.{x}.weight"].shape == p[f"self_attn.{x}.weight"].shape]
        assert "".join(alike) == copied
        assert all(torch.equal(p[f"cross_attn.{x}.weight"], p[f"self_attn.{x}.weight"]) for x in alike)
        assert torch.equal(p["cross_attn_norm.weight"], p["self_attn_norm.weight"])
        assert torch.equal(p["cross_attn_post_norm.weight"], p["self_attn_post_norm.weight"])


def test_gpt2s_own_cross_attention_can_be_gated_and_its_decoder_keeps_the_gates(tmp_path: Path) -> None:
    model = joined("gpt2", tmp_path, encoder="bert/small", cross_attention_init="zero_gate")
    randomise_fresh(model)
    model.decoder.save_pretrained(tmp_path / "half")
    again = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "half")
    assert again.config.cross_attention_init == "zero_gate"
    assert again.join_report.fresh == []
    batch = oracle.batch_for("bert/small", "gpt2")
    assert torch.equal(decode(again, batch), decode(model, batch))
