"""ALiBi: slopes, far distances, padding on the left, and the bfloat16 that Falcon has it in."""

from pathlib import Path

import pytest
import torch

import oracle
from conjoin import spec
from conjoin.torch.model.positions import Alibi
from conjoin.torch.pair.halves import Decoder
from oracle_masks import alibi_of

KEYS = ("bloom", "falcon/alibi")


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 32, 71, 112])
def test_slopes_are_transformers(heads: int) -> None:
    theirs = alibi_of("bloom", heads, torch.ones(1, 2, dtype=torch.long))[0, :, 0, 1]
    torch.testing.assert_close(torch.tensor(spec.Alibi().slopes(heads)), theirs, rtol=1e-6, atol=0)


def test_rounded_biases_are_those_of_falcon_to_the_bit() -> None:
    theirs = alibi_of("falcon", 71, torch.ones(1, 3001, dtype=torch.long))
    bias, places = Alibi(spec.Alibi(rounded=True), 71), torch.arange(3001)[None]
    assert torch.equal(bias.heights(places)[:, :, None], theirs)
    assert torch.equal(bias(1, places, torch.float32), theirs - theirs[..., -1:])


@pytest.mark.parametrize("key", KEYS)
def test_a_decoder_counts_four_hundred_positions_as_transformers(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    ids = torch.randint(11, 53, (2, 400), generator=torch.Generator().manual_seed(1))
    expected = oracle.decoder_logits(theirs, ids)
    ours = Decoder.from_pretrained(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-4, atol=1e-4)
        first = ours(ids[:, :-2], use_cache=True)
        last = ours(ids[:, -2:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(last, expected[:, -2:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", KEYS)
def test_padding_on_the_left_changes_nothing(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    ids = torch.randint(11, 53, (2, 300), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(300) >= torch.tensor([[0], [17]])).long()
    expected = oracle.decoder_logits(theirs, ids, mask)
    ours = Decoder.from_pretrained(tmp_path)
    with torch.no_grad():
        padded, alone = ours(ids, mask).logits, ours(ids[1:, 17:]).logits
    torch.testing.assert_close(padded[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(padded[1:, 17:], alone, rtol=1e-4, atol=1e-4)
