"""Any encoder joins any decoder: every family on both sides, in pairs that cover the table."""

import functools
import math
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import oracle
from conjoin import EncoderDecoderConfig, EncoderDecoderModel, JoinError
from conjoin.families import MODULES, config_from_dict
from conjoin.join import pair_spec, part_of
from conjoin.spec import pair_parameters
from lanes import lanes
from pairs import greedy, save_half, stir

KEYS = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]
FAMILIES = list(dict.fromkeys(oracle.model_type(key) for key in KEYS))
STRIDES = (1, 8, 13)
"""Encoder i meets the decoders i + 1, i + 8 and i + 13 of the table, so that every family is thrice on either side."""
DECODERS = [family for family in FAMILIES if oracle.can_decode(family)]
PAIRS = [(encoder, DECODERS[(i + s) % len(DECODERS)]) for s in STRIDES for i, encoder in enumerate(FAMILIES)]
FAST = {*PAIRS[: len(FAMILIES)]}
"""Every family once on either side."""
INITS = ("normal", "self_attention")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> functools.partial[Path]:
    """Folder of a family's checkpoint for a role, made once."""
    root = tmp_path_factory.mktemp("halves")

    @functools.cache
    def make(key: str, role: str) -> Path:
        save_half(root / role / key, key, role)
        return root / role / key

    return functools.partial(make)


@pytest.mark.parametrize(("encoder", "decoder"), lanes(PAIRS, FAST.__contains__))
def test_a_pair_runs_learns_generates_and_comes_back(
    encoder: str, decoder: str, checkpoint: functools.partial[Path], tmp_path: Path
) -> None:
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        checkpoint(encoder, "encoder"),
        checkpoint(decoder, "decoder"),
        cross_attention_init=INITS[PAIRS.index((encoder, decoder)) % 2],
        decoder_start_token_id=oracle.START_ID,
    )
    assert {part_of(name) for name in model.join_report.fresh} <= {"decoder.cross_attention"}
    data = oracle.batch_for(encoder, decoder)
    two = {name: data[name] for name in ("input_ids", "attention_mask", "labels")}
    loss = model(**two).loss
    assert math.isfinite(loss.item())
    loss.backward()
    assert_reached(model)

    source = {name: data[name] for name in ("input_ids", "attention_mask")}
    tokens = model.generate(**source, max_new_tokens=5, min_new_tokens=5)
    assert torch.equal(tokens, greedy(model, data))

    model.save_pretrained(tmp_path / "out")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert {*again.join_report.fresh} == {*model.join_report.fresh}  # no step was taken: they are as they were drawn
    before, after = dict(model.named_parameters()), dict(again.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(again(**two).logits, model(**two).logits)


def assert_reached(model: EncoderDecoderModel) -> None:
    """Every fresh parameter gets gradient; a bias of keys never does, for softmax does not see what all keys share."""
    fresh = [name for name in model.join_report.fresh if not name.endswith(".k.bias")]
    dry = [name for name in fresh if not bool(model.get_parameter(name).grad.any())]
    assert not dry


@hypothesis.given(encoder=st.sampled_from(KEYS), decoder=st.sampled_from([*filter(oracle.can_decode, KEYS)]))
@hypothesis.settings(max_examples=300, deadline=None)
def test_every_cell_of_the_table_has_a_plan(encoder: str, decoder: str) -> None:
    """Specs and shapes alone, variants included: what cannot be joined says so."""
    halves = [
        config_from_dict({"model_type": oracle.model_type(key), **oracle.TINY[key]}) for key in (encoder, decoder)
    ]
    pair = pair_spec(EncoderDecoderConfig.from_encoder_decoder_configs(*halves))
    assert pair.decoder.reads_source and pair.decoder.head is not None
    # A projection leads to the width that the decoder's own cross-attention reads (T5Gemma), or to the decoder's.
    width = pair.decoder.source_size if pair.projection else pair.encoder.hidden_size
    parameters = pair_parameters(pair)
    for index, block in enumerate(pair.decoder.blocks):
        assert block.causal and (block.cross_attn is not None or pair.decoder.merges_source)
        if index in pair.decoder.weights_of and block.cross_attn is not None:
            assert parameters[f"decoder.blocks.{index}.cross_attn.k.weight"].shape[1] == width
    assert not any(block.causal or block.cross_attn for block in pair.encoder.blocks)
    for init in ("self_attention", "zero_gate"):
        try:
            pair_spec(EncoderDecoderConfig.from_encoder_decoder_configs(*halves, cross_attention_init=init))
        except JoinError as error:
            assert "zero_gate" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [*filter(oracle.can_decode, KEYS)])
@pytest.mark.parametrize("encoder", ["bert", "t5", "llama"])
def test_every_variant_decodes_what_each_kind_of_encoder_reads(
    encoder: str, decoder: str, checkpoint: functools.partial[Path]
) -> None:
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        checkpoint(encoder, "encoder"), checkpoint(decoder, "decoder"), decoder_start_token_id=oracle.START_ID
    )
    data = oracle.batch_for(encoder, decoder)
    stir(model)(**{name: data[name] for name in ("input_ids", "attention_mask", "labels")}).loss.backward()
    assert_reached(model)
