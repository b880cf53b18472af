"""An encoder of the caller's: joined, trained, asked, saved and loaded again, with a ViT of transformers and a CNN."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import oracle
import oracle_vision
from conjoin import AutoConfig, EncoderDecoderModel
from conjoin.errors import ConfigError, JoinError, ShapeError, WeightError
from conjoin.torch.pair.halves import Decoder
from pairs import CLOSE

IDS: dict[str, Any] = {"decoder_start_token_id": 9, "pad_token_id": 3, "eos_token_id": 7}


class Cnn(nn.Module):
    """Pictures of 8 x 8 to a map of 2 x 2."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.Tanh(), nn.Conv2d(width, width, 1)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def joined(folder: Path, key: str = "llama", **more: Any) -> Any:
    """A CNN joined to a decoder."""
    torch.manual_seed(11)
    oracle.save_decoder(key, folder / key)
    return EncoderDecoderModel(encoder=Cnn(), decoder=folder / key, encoder_width=10, **IDS, **more)


def test_a_vit_and_a_gpt2_compute_what_transformers_pair_does(tmp_path: Path) -> None:
    theirs = oracle_vision.vision_pair("gpt2", tmp_path)
    decoder = Decoder.from_pretrained(tmp_path)
    ours: Any = EncoderDecoderModel(encoder=theirs.encoder, decoder=decoder, encoder_width=20, **IDS)
    with torch.no_grad():
        ours.enc_to_dec_proj.weight.copy_(theirs.enc_to_dec_proj.weight)
        ours.enc_to_dec_proj.bias.copy_(theirs.enc_to_dec_proj.bias)
    ids = torch.randint(11, 53, (2, 7), generator=torch.Generator().manual_seed(1))
    expected = oracle_vision.vision_logits(theirs, pictures(2), ids)
    found = ours(pixel_values=pictures(2), decoder_input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, **CLOSE)


def test_it_learns_what_pictures_say_generates_it_and_comes_back(tmp_path: Path) -> None:
    model = joined(tmp_path)
    assert {name.split(".")[0] for name in model.join_report.origins} == {"decoder"}
    rows = [{"pixel_values": picture, "labels": [20 + n, 30 + n, 7][n % 2 :]} for n, picture in enumerate(pictures(4))]
    (batch,) = DataLoader(rows, batch_size=4, collate_fn=model.collate)
    assert batch["labels"].tolist()[1] == [31, 7, -100]
    diagnosis = model.doctor(batch)
    assert diagnosis.ok, str(diagnosis)
    assert diagnosis["source"].detail.startswith("another source changes the logits")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(120):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    greedy = model.generate(pixel_values=pictures(4), max_new_tokens=4)
    assert [[i for i in row if i not in (9, 3)] for row in greedy.tolist()] == [row["labels"] for row in rows]
    beams = model.generate(pictures(4), max_new_tokens=4, num_beams=3)
    assert [[i for i in row if i not in (9, 3)] for row in beams.tolist()] == [row["labels"] for row in rows]
    model.save_pretrained(tmp_path / "out")
    again: Any = EncoderDecoderModel.from_pretrained(tmp_path / "out", encoder=Cnn())
    assert torch.equal(again.generate(pixel_values=pictures(4), max_new_tokens=4), greedy)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)


def test_states_may_be_masked_and_have_another_name(tmp_path: Path) -> None:
    def first_two(values: Tensor, states: Tensor) -> Tensor:
        return (torch.arange(states.shape[1]) < 2).expand(len(states), -1)

    model = joined(tmp_path, encoder_input="input_features", encoder_mask=first_two, cross_attention_init="zero_gate")
    ids = torch.tensor([[9, 20, 30]])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(1.0)
        states = model.encoder(inputs_embeds=pictures(1)).last_hidden_state
        cut = model(encoder_outputs=states[:, :2], decoder_input_ids=ids).logits
        torch.testing.assert_close(model(input_features=pictures(1), decoder_input_ids=ids).logits, cut, **CLOSE)
    with pytest.raises(ShapeError, match=r"Cnn reads input_features; given: decoder_input_ids"):
        model(decoder_input_ids=ids)


def test_trainers_of_others_may_hand_over_the_state(tmp_path: Path) -> None:
    model = joined(tmp_path, "llama/tied")
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "out", state_dict=state)
    again: Any = EncoderDecoderModel.from_pretrained(tmp_path / "out", encoder=Cnn())
    assert torch.equal(again.decoder.embed.words.weight, state["decoder.embed.words.weight"])
    assert again.decoder.head.vocab is None
    with pytest.raises(ShapeError, match="reads no ids and no texts"):
        model.encoder(torch.tensor([[1, 2]]))


def test_only_the_caller_brings_code(tmp_path: Path) -> None:
    model = joined(tmp_path)
    model.save_pretrained(tmp_path / "out")
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["encoder"]["class"].endswith("test_foreign.Cnn")
    for load in (AutoConfig.from_pretrained, EncoderDecoderModel.from_pretrained):
        with pytest.raises(ConfigError, match=r"from_pretrained\(folder, encoder=module\)"):
            load(tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"was saved with a .*Cnn as encoder, without encoder_mask; given is a .*Linear"
    ):
        EncoderDecoderModel.from_pretrained(tmp_path / "out", encoder=nn.Linear(2, 2))
    with pytest.raises(WeightError, match="do not fit the model"):
        EncoderDecoderModel.from_pretrained(tmp_path / "out", encoder=Cnn(12))


def test_what_is_missing_or_does_not_fit_is_said(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match="decoder= and encoder_width= are needed"):
        EncoderDecoderModel(encoder=Cnn())
    model = joined(tmp_path)
    with pytest.raises(ConfigError, match="is no stack of conjoin"):
        model.quantize()
    model.encoder.module = Cnn(12)
    with pytest.raises(ShapeError, match=r"its output has shape \(1, 12, 2, 2\); expected \(batch, length, 10\)"):
        model.generate(pictures(1))
    with pytest.raises(ShapeError, match=r"a batch has shapes \(1,\), \(2,\)"):
        model.collate([{"pixel_values": [1.0], "labels": [1]}, {"pixel_values": [1.0, 2.0], "labels": [1]}])
