"""Joins that read the source layer by layer: before the first step they are the LM with the source as its prefix."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from conjoin import ConfigError, EncoderDecoderConfig, Engine, ShapeError, shrink, spec
from conjoin.errors import GenerationError, JoinError
from conjoin.join import shared_names
from conjoin.torch.generation.engine import Details
from conjoin.torch.model import route
from conjoin.torch.pair.halves import Decoder
from conjoin.torch.pair.model import EncoderDecoderModel
from lanes import lanes_of_keys
from source_readers import KEYS, SOURCES, TARGETS, ids_of, language_model, layerwise, rows_of

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("key", lanes_of_keys(KEYS))
def test_a_causal_lm_joined_to_itself_is_that_lm_with_the_source_as_its_prefix(key: str, tmp_path: Path) -> None:
    expected = language_model(key, tmp_path)
    pair = layerwise(tmp_path)
    (source, source_mask), (target, target_mask) = ids_of(key, SOURCES), ids_of(key, TARGETS, 2)
    with torch.no_grad():
        logits = pair(
            input_ids=source,
            attention_mask=source_mask,
            decoder_input_ids=target,
            decoder_attention_mask=target_mask,
        ).logits
    assert not pair.join_report.fresh
    assert not pair.spec.decoder.has_cross_attention
    for row, (first, second) in enumerate(zip(rows_of(source, source_mask), rows_of(target, target_mask), strict=True)):
        whole = expected(torch.cat((first, second))[None])
        torch.testing.assert_close(logits[row, : len(second)], whole[len(first) :], **CLOSE)


@pytest.mark.parametrize("key", lanes_of_keys(KEYS))
@pytest.mark.usefixtures("passes")
def test_its_continuations_are_the_lms_own(key: str, tmp_path: Path) -> None:
    expected, new = language_model(key, tmp_path), 6
    pair = layerwise(tmp_path)
    source, mask = ids_of(key, SOURCES, side="left")
    eos = oracle.TINY[key]["eos_token_id"]
    settings: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "attention_mask": mask}
    greedy = pair.generate(source, **settings)
    beams = pair.generate(
        source,
        num_beams=3,
        num_return_sequences=2,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    for row, first in enumerate(rows_of(source, mask)):
        whole = torch.cat((first, torch.tensor([oracle.START_ID])))
        for _ in range(new):
            logits = expected(whole[None])[-1].clone()
            logits[eos] = float("-inf")
            whole = torch.cat((whole, logits.argmax()[None]))
        assert greedy[row].tolist() == whole[len(first) :].tolist()
        for result in (2 * row, 2 * row + 1):
            written = beams.sequences[result]
            logits = expected(torch.cat((first, written))[None])[len(first) : -1].log_softmax(-1)
            score = logits.gather(1, written[1:, None]).sum()
            torch.testing.assert_close(beams.sequences_scores[result], score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", lanes_of_keys(["llama/biases", "gemma2", "gpt2", "opt", "modernbert", "albert"]))
def test_packed_rows_learn_what_padded_ones_do(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model(key, tmp_path)
    pair = layerwise(tmp_path, encoder_attention="bidirectional").train()
    (source, source_mask), (target, target_mask) = ids_of(key, SOURCES), ids_of(key, TARGETS, 2)
    labels = target.masked_fill(target_mask == 0, -100)

    def step() -> tuple[Tensor, dict[str, Tensor]]:
        pair.zero_grad()
        loss = pair(input_ids=source, attention_mask=source_mask, labels=labels, output_logits=False).loss
        loss.backward()
        return loss.detach(), {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}

    loss, gradients = step()
    monkeypatch.setattr(route, "can_pack", lambda stack, mask: False)
    expected, padded = step()
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert gradients.keys() == padded.keys()
    for name, gradient in padded.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: n + text)
    missing = [name for name, p in pair.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert missing == [name for name in missing if name.endswith(("token_types.weight", "final_logits_bias"))]


@pytest.mark.parametrize("key", ["mistral", "gpt2", "opt"])
def test_several_pairs_in_a_row_do_not_see_each_other(key: str, tmp_path: Path) -> None:
    language_model(key, tmp_path)
    pair = layerwise(tmp_path)
    (source, source_mask), (target, target_mask) = ids_of(key, (5, 4)), ids_of(key, (3, 6), 2)
    apart = pair(input_ids=source, attention_mask=source_mask, decoder_input_ids=target).logits
    sources, targets = rows_of(source, source_mask), rows_of(target, target_mask)
    packed = pair(
        input_ids=torch.cat(sources)[None],
        attention_mask=torch.ones(1, 9),
        segment_ids=torch.tensor([[1] * 5 + [2] * 4]),
        decoder_input_ids=torch.cat(targets)[None],
        decoder_segment_ids=torch.tensor([[1] * 3 + [2] * 6]),
        use_cache=False,
    ).logits
    torch.testing.assert_close(packed[0], torch.cat((apart[0, :3], apart[1])), **CLOSE)


@pytest.mark.parametrize("key", ["gemma2", "llama/tied"])
def test_it_is_saved_and_loaded(key: str, tmp_path: Path) -> None:
    language_model(key, tmp_path / "lm")
    pair = layerwise(tmp_path / "lm", share="all")
    pair.save_pretrained(tmp_path / "pair")
    saved = json.loads((tmp_path / "pair" / "config.json").read_text())
    assert saved["model_type"] == "conjoin"
    assert saved["conjoin"] == {
        "share": "all",
        "cross_attention_init": "layerwise",
        "encoder_attention": "causal",
    }
    again = EncoderDecoderModel.from_pretrained(tmp_path / "pair")
    assert again.spec == pair.spec
    batch = oracle.batch_for(key)
    torch.testing.assert_close(again(**batch).logits, pair(**batch).logits, rtol=0, atol=0)
    assert again.encoder.blocks[0].mlp.up.weight is again.decoder.blocks[0].mlp.up.weight
    assert again.num_parameters() == sum(p.numel() for p in pair.decoder.parameters())


def test_the_lifted_mask_is_saved_too(tmp_path: Path) -> None:
    language_model("llama", tmp_path / "lm")
    pair = layerwise(tmp_path / "lm", encoder_attention="bidirectional")
    assert not pair.spec.encoder.blocks[0].causal
    pair.save_pretrained(tmp_path / "pair")
    assert EncoderDecoderModel.from_pretrained(tmp_path / "pair").spec == pair.spec


@pytest.mark.parametrize(("key", "expected"), [("llama", "causal"), ("gpt2", "causal"), ("bert", "bidirectional")])
def test_an_encoder_reads_as_it_was_trained_unless_told_otherwise(key: str, expected: str, tmp_path: Path) -> None:
    language_model(key, tmp_path)
    assert layerwise(tmp_path, encoder_attention=None).config.encoder_attention == expected


def test_dropped_layers_are_mapped(tmp_path: Path) -> None:
    """A decoder that lost its middle layer reads with the encoder layers that its own once were."""
    language_model("llama", tmp_path)
    with pytest.raises(JoinError, match=r"--source-layers 0,1 \(source_layers=\[0, 1\]\)"):
        layerwise(tmp_path, decoder_num_hidden_layers=2)
    pair = layerwise(tmp_path, decoder_num_hidden_layers=2, source_layers=[0, 2])
    assert pair.spec.encoder.states == (0, 2)
    assert pair.spec.encoder.num_layers == 2
    pair.save_pretrained(tmp_path / "pair")
    assert EncoderDecoderModel.from_pretrained(tmp_path / "pair").spec == pair.spec
    whole = layerwise(tmp_path)
    (source, mask), (target, _) = ids_of("llama", SOURCES), ids_of("llama", TARGETS, 2)
    whole.decoder.blocks[1].load_state_dict(pair.decoder.blocks[1].state_dict())
    one, other = (
        model(input_ids=source, attention_mask=mask, decoder_input_ids=target, output_hidden_states=True)
        for model in (pair, whole)
    )
    states = one.encoder_hidden_states
    torch.testing.assert_close(one.encoder_last_hidden_state, torch.cat((states[0], states[2]), -1), rtol=0, atol=0)
    torch.testing.assert_close(one.decoder_hidden_states[1], other.decoder_hidden_states[1], **CLOSE)
    assert (one.decoder_hidden_states[2] - other.decoder_hidden_states[2]).abs().max() > 1e-3


def test_layers_chosen_at_join_or_dropped_later_read_with_those_that_they_had(tmp_path: Path) -> None:
    language_model("llama", tmp_path / "lm")
    chosen = layerwise(tmp_path / "lm", decoder_layers=[0, 2])
    assert chosen.config.source_layers == [0, 2]
    fewer = layerwise(tmp_path / "lm", encoder_layers=[0, 2], decoder_layers=[0, 1])
    assert fewer.config.source_layers == [0, 1]
    layerwise(tmp_path / "lm").save_pretrained(tmp_path / "pair")
    shrink(tmp_path / "pair", tmp_path / "shrunk", decoder_layers=2)
    shrunk, batch = EncoderDecoderModel.from_pretrained(tmp_path / "shrunk"), oracle.batch_for("llama")
    assert shrunk.config.source_layers == [0, 2]
    torch.testing.assert_close(shrunk(**batch).logits, chosen(**batch).logits, **CLOSE)


@pytest.mark.parametrize(
    "layers",
    [
        {"encoder_layers": 2},
        {"decoder_layers": 2},
        {"encoder_layers": [0, 1]},
        {"decoder_layers": [0, 2]},
        {"encoder_layers": [0, 1], "decoder_layers": [0, 2]},
    ],
)
def test_one_stack_that_reads_and_writes_loses_layers_as_a_whole(layers: dict[str, Any], tmp_path: Path) -> None:
    """Else layers of other numbers would be tied to each other, without a word."""
    language_model("llama", tmp_path / "lm")
    with pytest.raises(JoinError, match="keep the same layers of both halves"):
        layerwise(tmp_path / "lm", share="all", **layers)
    layerwise(tmp_path / "lm", share="all").save_pretrained(tmp_path / "pair")
    with pytest.raises(JoinError, match="keep the same layers of both halves"):
        shrink(tmp_path / "pair", tmp_path / "shrunk", **layers)
    assert not (tmp_path / "shrunk").exists()


def test_one_stack_that_reads_and_writes_is_shrunk_with_its_last_layer(tmp_path: Path) -> None:
    language_model("llama", tmp_path / "lm")
    layerwise(tmp_path / "lm", share="all").save_pretrained(tmp_path / "pair")
    with pytest.raises(ConfigError, match="keep layer 2 too"):
        shrink(tmp_path / "pair", tmp_path / "shrunk", encoder_layers=[0, 1], decoder_layers=[0, 1])
    shrink(tmp_path / "pair", tmp_path / "shrunk", encoder_layers=[0, 2], decoder_layers=[0, 2])
    chosen = layerwise(tmp_path / "lm", share="all", encoder_layers=[0, 2], decoder_layers=[0, 2])
    shrunk, batch = EncoderDecoderModel.from_pretrained(tmp_path / "shrunk"), oracle.batch_for("llama")
    torch.testing.assert_close(shrunk(**batch).logits, chosen(**batch).logits, **CLOSE)


def test_attention_weights_are_split_at_the_end_of_the_source(tmp_path: Path) -> None:
    language_model("mistral", tmp_path)
    pair = layerwise(tmp_path)
    (source, mask), (target, _) = ids_of("mistral", SOURCES), ids_of("mistral", TARGETS, 2)
    out = pair(input_ids=source, attention_mask=mask, decoder_input_ids=target, output_attentions=True)
    assert out.cross_attentions[0].shape == (3, 3, 5, 7)
    assert out.decoder_attentions[0].shape == (3, 3, 5, 5)
    for crossed, own in zip(out.cross_attentions, out.decoder_attentions, strict=True):
        torch.testing.assert_close(crossed.sum(-1) + own.sum(-1), torch.ones(3, 3, 5), **CLOSE)
        assert not crossed.masked_select(mask[:, None, None, :] == 0).any()
        assert not own.triu(1).any()


@pytest.mark.parametrize("key", ["qwen3/full", "gpt2"])
def test_kept_in_8_bits_it_writes_nearly_the_same(key: str, tmp_path: Path) -> None:
    language_model(key, tmp_path)
    pair = layerwise(tmp_path)
    source, mask = ids_of(key, SOURCES)
    settings: dict[str, Any] = {
        "attention_mask": mask,
        "max_new_tokens": 4,
        "return_dict_in_generate": True,
        "output_logits": True,
        "num_beams": 2,
    }
    plain = pair.generate(source, **settings)
    small = pair.generate(source, cache_implementation="quantized", **settings)
    torch.testing.assert_close(small.logits[1], plain.logits[1], rtol=0.1, atol=0.2)
    assert small.past_key_values.cross[0][0].dtype == torch.int8
    assert len(small.past_key_values.cross[0][0]) == len(source)  # beams share the keys of their source


def test_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    language_model("llama", tmp_path)
    pair, batch = layerwise(tmp_path).train(), oracle.batch_for("llama")

    def gradients() -> dict[str, Tensor]:
        pair.zero_grad()
        pair(**batch).loss.backward()
        return {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}

    plain = gradients()
    pair.gradient_checkpointing_enable()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], **CLOSE)


def test_the_doctor_finds_it_healthy(tmp_path: Path) -> None:
    language_model("llama", tmp_path)
    batch = oracle.batch_for("llama", T=9)
    batch["labels"][:, -1] = oracle.TINY["llama"]["eos_token_id"]
    findings = {finding.check: finding for finding in layerwise(tmp_path).doctor(batch).findings}
    assert [name for name, finding in findings.items() if finding.status == "failed"] == []
    assert "reach the decoder's layers" in findings["gradients"].detail


def test_halves_that_differ_are_named(tmp_path: Path) -> None:
    language_model("llama", tmp_path / "llama")
    language_model("qwen3", tmp_path / "qwen3")
    language_model("bert", tmp_path / "bert")
    with pytest.raises(JoinError, match=r"llama and qwen3 differ[\s\S]*decoder layer 0, encoder layer 0: heads"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(
            tmp_path / "llama", tmp_path / "qwen3", cross_attention_init="layerwise"
        )
    with pytest.raises(JoinError, match="hidden_size: encoder 20, decoder 12"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(
            tmp_path / "bert", tmp_path / "llama", cross_attention_init="layerwise", source_layers=[0, 0, 1]
        )
    with pytest.raises(JoinError, match='only "layerwise" reads layers'):
        EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "llama", tmp_path / "llama", source_layers=[0])


def test_positions_of_the_caller_are_refused(tmp_path: Path) -> None:
    language_model("gpt2", tmp_path)
    batch = oracle.batch_for("gpt2")
    with pytest.raises(ShapeError, match="position_ids"):
        layerwise(tmp_path)(**batch, position_ids=torch.arange(7)[None])


def test_source_and_target_share_the_position_table(tmp_path: Path) -> None:
    language_model("gpt2", tmp_path)
    pair = layerwise(tmp_path)
    most = pair.spec.decoder.max_positions
    assert most is not None
    source = torch.full((1, most - 2), 12)
    with pytest.warns(UserWarning, match=f"of which the source takes {most - 2}: they end at 3"):
        assert pair.generate(source, max_new_tokens=9, min_new_tokens=2).shape[1] <= 3
    with pytest.raises(GenerationError, match="shorten the source"):
        pair.generate(torch.full((1, most), 12), max_new_tokens=9, decoder_input_ids=torch.tensor([[9, 12]]))
    with pytest.raises(ShapeError, match=f"{most + 1} positions"):
        pair(input_ids=source, decoder_input_ids=torch.full((1, 3), 12))


def test_a_decoder_taken_out_of_a_pair_is_the_lm_again(tmp_path: Path) -> None:
    expected = language_model("qwen3", tmp_path / "lm")
    layerwise(tmp_path / "lm").decoder.save_pretrained(tmp_path / "half")
    ids, _ = ids_of("qwen3", (6,))
    half = Decoder.from_pretrained(tmp_path / "half")
    torch.testing.assert_close(half(ids).logits[0].detach(), expected(ids), **CLOSE)


def test_a_config_alone_makes_such_a_pair() -> None:
    llama = {"model_type": "llama", **oracle.TINY["llama"]}
    config = EncoderDecoderConfig(encoder=llama, decoder=llama, cross_attention_init="layerwise", share="all")
    pair = EncoderDecoderModel(config)
    assert pair.spec.decoder.blocks[1].self_attn.source == spec.PrefixSource(state=1)
    assert len(shared_names(pair.spec)) == len(spec.stack_parameters(pair.spec.encoder))


@pytest.mark.parametrize("key", ["gemma2", "gpt2"])
def test_the_engine_answers_as_generate_does(key: str, tmp_path: Path) -> None:
    language_model(key, tmp_path)
    pair = layerwise(tmp_path)
    engine, requests = Engine(pair, max_rows=9), []
    for row, length in enumerate((5, 9, 2, 7)):
        source, _ = ids_of(key, (length,), seed=row)
        settings = {"num_beams": (1, 3)[row % 2], "max_new_tokens": 4 + row, "do_sample": False}
        requests.append({"input_ids": source, **settings})
    handles = []
    for request in requests:
        handles.append(engine.submit(**request, details=Details(attention=True)))
        engine.step()
    engine.run()
    for request, handle in zip(requests, handles, strict=True):
        assert handle.result().tolist() == pair.generate(**request).tolist()
