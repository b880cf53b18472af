"""Whole seq2seq checkpoints (BART, mBART, T5, T5Gemma): read, run, trained, stepped and written as by transformers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import oracle
from conjoin import shrink
from conjoin.errors import ConfigError, ConjoinWarning
from conjoin.families import family
from conjoin.join import pair_names
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.model import EncoderDecoderModel
from lanes import lanes
from tokenizer_samples import raw_folder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
HEAD = 0.2
"""Of random vocabulary matrices: with 1, logits reach 18, where transformers' own are 7e-6 from those in float64."""
FAST = ("bart", "mbart", "t5/gated", "mt5", "marian", "marian/two_vocabularies", "m2m_100", "t5gemma", "t5gemma2")


def is_fast(key: str) -> bool:
    return key in FAST


WHOLE_KEYS = lanes(oracle.WHOLE_KEYS, is_fast)
TWO_VOCABULARIES = lanes(["marian/two_vocabularies"], is_fast)
T5_KEYS = lanes([key for key in oracle.WHOLE_KEYS if oracle.model_type(key) in ("t5", "mt5")], is_fast)
BART_KEYS = lanes([k for k in oracle.WHOLE_KEYS if "t5" not in k and k != "marian/two_vocabularies"], is_fast)
ONE_TABLE_KEYS = [*BART_KEYS, *T5_KEYS]
HELD_KEYS = lanes([key for key in oracle.WHOLE_KEYS if key in oracle.DECODER_KEYS], is_fast)
"""Of decoders that transformers' EncoderDecoderModel can hold."""
ENCODERS = ("bert", "bert/small")  # as wide as the decoder halves, and narrower
WRITES = {"add_cross_attention": True}


def source_of(batch: oracle.Batch) -> dict[str, Tensor]:
    """What the encoder reads."""
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def target_of(batch: oracle.Batch) -> dict[str, Tensor]:
    """What the decoder reads, in place of labels."""
    return {name: batch[name] for name in ("decoder_input_ids", "decoder_attention_mask")}


def rewrite(folder: Path, tensors: dict[str, Tensor | None], **config: Any) -> None:
    """Change a saved checkpoint: tensors by name (None takes one out), and values of config.json."""
    stored = {**load_file(folder / "model.safetensors"), **tensors}
    save_file({name: t.contiguous() for name, t in stored.items() if t is not None}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def rules_of(key: str) -> dict[str, Any]:
    """Settings of `generate` under which transformers counts positions alike with a cache and without.

    M2M100 skips padding ids, but with a cache those of the newest token alone: no padding before the end, then.
    """
    return {"suppress_tokens": [oracle.TINY[key]["pad_token_id"]]} if key.startswith("m2m_100") else {}


def logits_of(model: Any, batch: oracle.Batch) -> Tensor:
    """Scores of a given target, without gradient."""
    with torch.no_grad():
        return model(**source_of(batch), **target_of(batch), use_cache=False).logits


def check_gradients(ours: EncoderDecoderModel, theirs: dict[str, Tensor]) -> None:
    """Every trained parameter of either side has the other's gradient, through the table of names."""
    table = pair_names(ours.config, ours.spec)
    expected = {}
    for name, gradient in theirs.items():
        match = table.match(name)
        if match is None:
            assert "pooler" in name, name
            continue
        expected.update(table.apply(match, gradient))
    found = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda text, name=name: f"{name}: {text}", **CLOSE)


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_logits_loss_and_every_gradient_are_transformers(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    batch = oracle.batch_for(key)
    expected = oracle.pair_outputs(theirs, batch)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    out = ours(**batch, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(out.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(out.loss, expected.loss, **CLOSE)
    torch.testing.assert_close(out.cross_attentions, expected.cross_attentions, **CLOSE)
    out.loss.backward()
    check_gradients(ours, expected.grads)


@pytest.mark.parametrize("key", WHOLE_KEYS)
@pytest.mark.parametrize("hole", [False, True])
def test_labels_alone_give_transformers_decoder_inputs_and_loss(key: str, hole: bool, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    batch = oracle.batch_for(key)
    labels = batch["labels"].clone()
    t5gemma = oracle.model_type(key) == "t5gemma"  # whose decoder never reads pads, which stand for -100
    wraps = key.startswith(("mbart", "plbart"))  # these look for the last label where a row would end without holes
    if hole and not wraps and not t5gemma:
        labels[:, 2] = -100
    given = source_of(batch) | {"labels": labels}
    expected = oracle.pair_outputs(theirs, given)
    out = EncoderDecoderModel.from_pretrained(tmp_path)(**given)
    counted = labels != -100 if t5gemma else torch.ones_like(labels, dtype=torch.bool)
    torch.testing.assert_close(out.logits[counted], expected.logits[counted], **CLOSE)
    torch.testing.assert_close(out.loss, expected.loss, **CLOSE)


def test_mbart_targets_start_with_their_last_label(tmp_path: Path) -> None:
    theirs = oracle.save_whole("mbart", tmp_path)
    labels = torch.tensor([[20, 21, 7, 15], [22, 7, 15, -100], [23, 15, 3, 3]])
    made = EncoderDecoderModel.from_pretrained(tmp_path).prepare_decoder_input_ids_from_labels(labels)
    assert made.tolist() == [[15, 20, 21, 7], [15, 22, 7, 15], [15, 23, 15, 3]]
    assert torch.equal(made, theirs.prepare_decoder_input_ids_from_labels(labels))


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_cached_steps_give_what_one_full_pass_gives(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path)
    batch = oracle.batch_for(key)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    ids = batch["decoder_input_ids"]
    with torch.no_grad():
        full = ours(**source_of(batch), decoder_input_ids=ids).logits
        first = ours(**source_of(batch), decoder_input_ids=ids[:, :4], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for step in range(4, ids.shape[1]):
            out = ours(
                attention_mask=batch["attention_mask"],
                decoder_input_ids=ids[:, step : step + 1],
                past_key_values=cache,
            )
            pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), full, **CLOSE)


@torch.no_grad()
def likeliest(model: EncoderDecoderModel, source: dict[str, Tensor], steps: int, never: list[int]) -> Tensor:
    """Greedy ids by cached steps, without any rule of generation but the end of a row, and tokens never to write."""
    rows = len(source["input_ids"])
    ids = torch.full((rows, 1), model.config.decoder_start_token_id)
    cache, ended = None, torch.zeros(rows, dtype=torch.bool)
    for _ in range(steps):
        out = model(**source, decoder_input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        scores = out.logits[:, -1]
        scores[:, never] = float("-inf")
        new = scores.argmax(-1).masked_fill(ended, model.config.pad_token_id)
        ids, ended = torch.cat((ids, new[:, None]), 1), ended | (new == model.config.eos_token_id)
        if ended.all():
            break
    return ids


@pytest.mark.parametrize("key", WHOLE_KEYS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_likeliest_tokens_are_transformers(key: str, seed: int, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path, seed=seed)
    source = source_of(oracle.batch_for(key))
    rules = rules_of(key)
    expected = oracle.greedy(theirs, source["input_ids"], source["attention_mask"], 12, **rules)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    assert torch.equal(likeliest(ours, source, 12, rules.get("suppress_tokens", [])), expected)


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_transformers_reads_what_we_save(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path / "theirs")
    EncoderDecoderModel.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    back = oracle.reload_whole(tmp_path / "ours")
    batch = oracle.batch_for(key)
    torch.testing.assert_close(logits_of(back, batch), logits_of(theirs, batch), rtol=0, atol=0)
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs")]
    stored = [{n: t for n, t in file.items() if not n.startswith(oracle.VISION)} for file in files]
    assert stored[0].keys() == stored[1].keys()
    torch.testing.assert_close(stored[0], stored[1], rtol=0, atol=0)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [type(theirs).__name__]


@pytest.mark.parametrize("key", [*ONE_TABLE_KEYS, *TWO_VOCABULARIES, "t5gemma", "t5gemma2"])
def test_a_file_of_the_bare_class_loads_whole(key: str, tmp_path: Path) -> None:
    oracle.save_encoder(key, tmp_path)  # BartModel, T5Model: no prefix, no head, no final_logits_bias
    theirs = oracle.reload_whole(tmp_path, allow=("final_logits_bias",))  # MVP's says so
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    batch = oracle.batch_for(key)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    torch.testing.assert_close(
        logits_of(oracle.reload_whole(tmp_path / "ours"), batch), logits_of(theirs, batch), rtol=0, atol=0
    )


@pytest.mark.parametrize("key", ONE_TABLE_KEYS)
@pytest.mark.parametrize("kept", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"])
def test_the_word_table_is_found_under_whichever_name_a_file_kept(key: str, kept: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    prefix = "" if oracle.model_type(key) in ("t5", "mt5") else "model."
    shared = load_file(tmp_path / "model.safetensors")[f"{prefix}shared.weight"]
    rewrite(tmp_path, {f"{prefix}shared.weight": None, kept if "lm_head" in kept else prefix + kept: shared})
    batch = oracle.batch_for(key)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)


@pytest.mark.parametrize("key", [*ONE_TABLE_KEYS, *TWO_VOCABULARIES, "t5gemma", "t5gemma2"])
def test_a_head_of_its_own_is_kept_where_the_config_denies_it(key: str, tmp_path: Path) -> None:
    head = oracle.save_whole(key, tmp_path).get_output_embeddings().weight
    name = "lm_head.out_proj.weight" if "gemma" in key else "lm_head.weight"
    rewrite(tmp_path, {name: torch.randn_like(head) * HEAD})
    theirs = oracle.reload_whole(tmp_path)
    batch = oracle.batch_for(key)
    with pytest.warns(ConjoinWarning, match="two different matrices"):
        ours = EncoderDecoderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    back = oracle.reload_whole(tmp_path / "ours")
    torch.testing.assert_close(logits_of(back, batch), logits_of(theirs, batch), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["t5/gated", "mt5"])
def test_t5_1_1_as_published_has_a_head_of_its_own_that_does_not_scale(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path)
    path = tmp_path / "config.json"
    rewrite(tmp_path, {"lm_head.weight": torch.randn(53, 20) * HEAD}, tie_word_embeddings=False)
    config = json.loads(path.read_text())
    config.pop("scale_decoder_outputs", None)  # a word of transformers 5
    path.write_text(json.dumps(config))
    theirs = oracle.reload_whole(tmp_path)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    batch = oracle.batch_for(key)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    back = oracle.reload_whole(tmp_path / "ours")
    torch.testing.assert_close(logits_of(back, batch), logits_of(theirs, batch), rtol=0, atol=0)


def test_umt5_as_published_has_a_head_of_its_own_that_does_not_scale(tmp_path: Path) -> None:
    """transformers 4 read these files so; 5.23 takes them for tied and scales, which moves no word's rank."""
    theirs = oracle.save_whole("umt5", tmp_path)
    rewrite(tmp_path, {"lm_head.weight": torch.randn(53, 20)}, tie_word_embeddings=False)
    theirs = oracle.reload_whole(tmp_path)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    batch = oracle.batch_for("umt5")
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch) * 20**0.5, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("key", BART_KEYS)
def test_a_bart_whose_config_ties_no_words_has_three_tables(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path)
    tables = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    rewrite(tmp_path, {name: torch.randn(53, 20) for name in tables}, tie_word_embeddings=False)
    theirs = oracle.reload_whole(tmp_path)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    batch = oracle.batch_for(key)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    back = oracle.reload_whole(tmp_path / "ours", allow=("model.shared.",))  # a fourth table, which nothing reads
    torch.testing.assert_close(logits_of(back, batch), logits_of(theirs, batch), rtol=0, atol=0)


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_a_decoder_half_gives_transformers_logits_from_given_states(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    batch = oracle.batch_for(key)
    half = Decoder.from_pretrained(tmp_path, **WRITES)
    states = torch.randn(2, 7, half.spec.source_size)
    with torch.no_grad():
        expected = theirs(
            encoder_outputs=oracle.as_read(states),
            attention_mask=batch["attention_mask"],
            **target_of(batch),
            use_cache=False,
        ).logits
        ours = half(batch["decoder_input_ids"], batch["decoder_attention_mask"], states, batch["attention_mask"]).logits
    extra = getattr(theirs, "final_logits_bias", 0.0)  # the whole model's, which the half has not
    torch.testing.assert_close(ours + extra, expected, **CLOSE)


@pytest.mark.parametrize("key", T5_KEYS)
def test_an_encoder_only_file_is_read(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")  # as T5EncoderModel saves it
    rewrite(tmp_path, {name: None for name in stored if name.startswith("decoder.")}, architectures=["T5EncoderModel"])
    batch = oracle.batch_for(key)
    ours = Encoder.from_pretrained(tmp_path)(**source_of(batch)).last_hidden_state
    mask = batch["attention_mask"][..., None]
    torch.testing.assert_close(ours * mask, oracle.encoder_states(theirs, **source_of(batch)) * mask, **CLOSE)


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_a_row_without_any_real_token_gives_numbers(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path)
    batch = oracle.batch_for(key)
    mask = batch["attention_mask"].clone()
    mask[1] = 0
    out = EncoderDecoderModel.from_pretrained(tmp_path)(**{**batch, "attention_mask": mask})
    assert out.logits.isfinite().all()


@pytest.mark.parametrize("enc_key", ENCODERS)
@pytest.mark.parametrize("dec_key", HELD_KEYS)
def test_a_pair_of_transformers_with_a_decoder_half_is_read_trained_and_written(
    enc_key: str, dec_key: str, tmp_path: Path
) -> None:
    theirs = oracle.save_pair(enc_key, dec_key, tmp_path / "theirs")
    batch = oracle.batch_for(enc_key, dec_key)
    expected = oracle.pair_outputs(theirs, batch)
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    out = ours(**batch)
    torch.testing.assert_close(out.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(out.loss, expected.loss, **CLOSE)
    out.loss.backward()
    check_gradients(ours, expected.grads)
    ours.save_pretrained(tmp_path / "ours")
    back = oracle.reload_pair(tmp_path / "ours", allow=("encoder.pooler.",))
    torch.testing.assert_close(logits_of(back, batch), logits_of(theirs, batch), rtol=0, atol=0)


@pytest.mark.parametrize("enc_key", ENCODERS)
@pytest.mark.parametrize("dec_key", WHOLE_KEYS)
def test_another_encoder_before_a_decoder_half_keeps_its_cross_attention(
    enc_key: str, dec_key: str, tmp_path: Path
) -> None:
    encoder = oracle.save_encoder(enc_key, tmp_path / "encoder")
    decoder = oracle.save_whole(dec_key, tmp_path / "decoder")
    ours = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "decoder")
    assert all(name.startswith("enc_to_dec_proj") for name in ours.join_report.fresh)
    assert bool(ours.join_report.fresh) == (enc_key == "bert/small")
    batch = oracle.batch_for(enc_key, dec_key)
    states = oracle.encoder_states(encoder, **source_of(batch))
    with torch.no_grad():
        expected = decoder(
            encoder_outputs=oracle.as_read(ours.project(states)),
            attention_mask=batch["attention_mask"],
            **target_of(batch),
            use_cache=False,
        ).logits
    extra = getattr(decoder, "final_logits_bias", 0.0)
    torch.testing.assert_close(logits_of(ours, batch) + extra, expected, **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(logits_of(again, batch), logits_of(ours, batch), rtol=0, atol=0)


@pytest.mark.parametrize("enc_key", WHOLE_KEYS)
@pytest.mark.parametrize("dec_key", ["gpt2", "llama", "opt", "t5/gated"])
def test_an_encoder_half_joins_another_decoder_and_comes_back(enc_key: str, dec_key: str, tmp_path: Path) -> None:
    encoder = oracle.save_encoder(enc_key, tmp_path / "encoder", head="mlm")
    save = oracle.save_whole if dec_key in oracle.WHOLE_KEYS else oracle.save_decoder
    save(dec_key, tmp_path / "decoder")
    ours = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "decoder")
    batch = oracle.batch_for(enc_key, dec_key)
    mask = batch["attention_mask"][..., None]
    found = ours.encoder(**source_of(batch)).last_hidden_state
    torch.testing.assert_close(found * mask, oracle.encoder_states(encoder, **source_of(batch)) * mask, **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(logits_of(again, batch), logits_of(ours, batch), rtol=0, atol=0)


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_the_halves_of_one_file_join_into_the_whole(key: str, tmp_path: Path) -> None:
    whole = oracle.save_whole(key, tmp_path / "whole")
    share = EncoderDecoderModel.from_pretrained(tmp_path / "whole").spec.share
    ours = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "whole", tmp_path / "whole", share=share)
    assert not ours.join_report.fresh
    batch = oracle.batch_for(key)
    extra = getattr(whole, "final_logits_bias", 0.0)
    torch.testing.assert_close(logits_of(ours, batch) + extra, logits_of(whole, batch), **CLOSE)


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_both_halves_are_saved_and_read_on_their_own(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path / "whole")
    whole = EncoderDecoderModel.from_pretrained(tmp_path / "whole")
    whole.encoder.save_pretrained(tmp_path / "encoder")
    encoder = Encoder.from_pretrained(tmp_path / "encoder")
    source = source_of(oracle.batch_for(key))
    states = [half(**source).last_hidden_state for half in (whole.encoder, encoder)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    Decoder.from_pretrained(tmp_path / "whole", **WRITES).save_pretrained(tmp_path / "decoder")
    halves = [Decoder.from_pretrained(tmp_path / name, **WRITES) for name in ("whole", "decoder")]
    ids = oracle.batch_for(key)["decoder_input_ids"]
    logits = [half(ids, encoder_hidden_states=states[0]).logits for half in halves]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


@pytest.mark.parametrize("key", ["bart", "t5", "mt5"])
def test_a_whole_model_starts_with_random_weights_from_its_config(key: str) -> None:
    config = family(oracle.model_type(key)).config(**oracle.TINY[key])
    batch = oracle.batch_for(key)
    out = EncoderDecoderModel(config=config)(**batch)
    assert out.loss.isfinite() and out.logits.shape == (2, 11, 53)


def test_layer_drop_is_said_to_have_no_effect(tmp_path: Path) -> None:
    oracle.save_whole("bart", tmp_path)
    with pytest.warns(ConjoinWarning, match=r"bart: config.json has decoder_layerdrop = 0\.1.*no effect"):
        EncoderDecoderModel.from_pretrained(tmp_path, decoder_layerdrop=0.1)


@pytest.mark.parametrize("key", ["bart", "t5", "t5/gated"])
def test_fresh_parameters_spread_as_transformers_do(key: str) -> None:
    more = {"d_kv": 30, "d_ff": 70, "relative_attention_num_buckets": 200, "relative_attention_max_distance": 300}
    wide = {"d_model": 60, "vocab_size": 400} | (more if oracle.model_type(key) == "t5" else {})
    theirs = oracle.AutoModelForSeq2SeqLM.from_config(oracle.build_config(key, **wide))
    config = family(oracle.model_type(key)).config(**oracle.TINY[key] | wide)
    config.tie_word_embeddings = True
    ours = EncoderDecoderModel(config=config)
    table = pair_names(config, ours.spec)
    for name, parameter in theirs.named_parameters():
        match = table.match(name)
        assert match is not None
        found = ours.get_parameter(match.canonical[0])
        torch.testing.assert_close(found.std(), parameter.std(), rtol=0.2, atol=1e-6)  # 600 draws or more
        torch.testing.assert_close(found.mean(), parameter.mean(), rtol=0, atol=0.2 * parameter.std().item() + 1e-6)


@pytest.mark.parametrize("key", WHOLE_KEYS)
def test_generate_gives_transformers_tokens(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    source = source_of(oracle.batch_for(key))
    for beams in (1, 3):
        rules = rules_of(key)
        expected = oracle.beams(theirs, source["input_ids"], source["attention_mask"], num_beams=beams, **rules)
        found = ours.generate(**source, max_new_tokens=12, num_beams=beams, **rules)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("key", T5_KEYS)
def test_positions_beside_a_mask_with_holes_are_the_places_of_the_bias(key: str, tmp_path: Path) -> None:
    """transformers counts distances of T5's bias by index; so do we where positions are given by index."""
    theirs = oracle.save_whole(key, tmp_path)
    batch = oracle.batch_for(key)
    mask = torch.ones_like(batch["decoder_input_ids"])
    mask[:, 1:4] = 0
    inputs = {**source_of(batch), "decoder_input_ids": batch["decoder_input_ids"], "decoder_attention_mask": mask}
    with torch.no_grad():
        expected = theirs(**inputs, use_cache=False).logits
        ours = EncoderDecoderModel.from_pretrained(tmp_path)
        where = torch.arange(mask.shape[1])[None]
        given = ours(**inputs, decoder_position_ids=where, use_cache=False).logits
        counted = ours(**inputs, use_cache=False).logits
    real = mask.bool()
    torch.testing.assert_close(given[real], expected[real], **CLOSE)
    assert not torch.allclose(counted[real], expected[real], atol=1e-3)


T5GEMMA_KEYS = [key for key in oracle.WHOLE_KEYS if "gemma" in key]


@pytest.mark.parametrize("key", ["t5gemma", "t5gemma2"])
def test_labels_end_in_eos_and_do_not_repeat_the_start_though_gemmas_tokenizer_does_otherwise(
    key: str, tmp_path: Path
) -> None:
    raw_folder("gemma", tmp_path)
    made = family(key).config(**oracle.TINY[key])
    for role in ("encoder", "decoder"):
        made = family(key).with_half(made, role, vocab_size=600)
    made = made.copy(pad_token_id=0, eos_token_id=1, bos_token_id=2, decoder_start_token_id=2)
    EncoderDecoderModel(config=made).save_pretrained(tmp_path / "whole")
    for file in tmp_path.glob("*.*"):
        file.rename(tmp_path / "whole" / file.name)
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "whole")
    batch = ours.tokenizer(["a text"], text_target=["another"], return_tensors="pt")
    labels = batch["labels"][0].tolist()
    assert labels[-1] == 1 and 2 not in labels
    assert ours.prepare_decoder_input_ids_from_labels(batch["labels"])[0].tolist() == [2, *labels[:-1]]
    ours.save_pretrained(tmp_path / "again")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "again").tokenizer
    assert again(["a text"], text_target=["another"])["labels"] == [labels]


def test_the_config_of_a_t5gemma_has_configs_in_it(tmp_path: Path) -> None:
    oracle.save_whole("t5gemma", tmp_path)
    config = EncoderDecoderModel.from_pretrained(tmp_path).config
    assert (config.encoder.hidden_size, config.decoder.hidden_size) == (20, 12)
    assert config.decoder_start_token_id == config.decoder.bos_token_id == config.bos_token_id
    changed = config.copy()
    changed.encoder.hidden_size = 28
    assert config.encoder.hidden_size == 20
    assert config.copy(**{"decoder": {**config.decoder.to_dict(), "hidden_size": 24}}).decoder.hidden_size == 24
    with pytest.raises(ConfigError, match="hidden_size = 'wide'"):
        config.copy(encoder={"model_type": "t5_gemma_module", "hidden_size": "wide"})
    with pytest.raises(ConfigError, match="encoder = 3"):
        config.copy(encoder=3)


def test_vision_is_named_as_unused_and_said_to_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    oracle.save_whole("t5gemma2", tmp_path / "theirs")
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    (unused,) = ours.join_report.unused.values()
    assert unused and all("vision_tower" in name or "multi_modal_projector" in name for name in unused)
    ours.save_pretrained(tmp_path / "ours")
    assert "saved without the vision tower" in caplog.text


def test_the_names_that_a_t5gemma2s_encoder_has_in_memory_are_read(tmp_path: Path) -> None:
    theirs = oracle.save_whole("t5gemma2", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    text = re.compile(r"^model\.encoder\.(?=(embed_tokens|layers|norm)\.)")
    newer = {text.sub("model.encoder.text_model.", name): tensor for name, tensor in stored.items()}
    assert newer.keys() != stored.keys()
    save_file(newer, tmp_path / "model.safetensors")
    batch = oracle.batch_for("t5gemma2")
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    half = Encoder.from_pretrained(tmp_path)(**source_of(batch)).last_hidden_state
    torch.testing.assert_close(half, ours.encoder(**source_of(batch)).last_hidden_state, rtol=0, atol=0)


def test_the_end_of_an_image_has_a_vector_of_its_own_in_the_embedding_alone(tmp_path: Path) -> None:
    oracle.save_whole("t5gemma2", tmp_path)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    image_end = ours.config.encoder.eoi_token_index
    rows = ours.encoder.embed.look_up(torch.tensor([[image_end, image_end + 1]]))[0]
    assert torch.equal(rows[0], ours.decoder.embed.replacement)
    assert torch.equal(rows[1], ours.encoder.embed.words.weight[image_end + 1] * 20**0.5)
    assert ours.decoder.embed.replacement is ours.encoder.embed.replacement
    assert ours.decoder.get_output_embeddings().weight is ours.encoder.embed.words.weight


@pytest.mark.parametrize("key", T5GEMMA_KEYS)
def test_a_t5gemma_loses_layers_and_gets_words(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path / "whole")
    shrink(tmp_path / "whole", tmp_path / "small", decoder_layers=[0, 1])
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    assert small.spec.decoder.num_layers == 2
    assert small.config.decoder.num_hidden_layers == len(small.config.decoder.layer_types) == 2
    small.resize_token_embeddings(encoder=64, decoder=64)
    small.save_pretrained(tmp_path / "wide")
    wide = EncoderDecoderModel.from_pretrained(tmp_path / "wide")
    assert (wide.spec.encoder.vocab_size, wide.spec.decoder.vocab_size) == (64, 64)
    batch = oracle.batch_for(key)
    torch.testing.assert_close(logits_of(wide, batch), logits_of(small, batch), rtol=0, atol=0)
