"""Work without padding: the same numbers at real tokens, and no row multiplied that nobody reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import oracle
from conjoin import BertConfig, EncoderDecoderModel, LlamaConfig, ShapeError, T5Config
from conjoin.families import MODULES, PretrainedConfig
from conjoin.torch.cpu import linear as linear_module
from conjoin.torch.cpu import native
from conjoin.torch.cpu import packing as packing_module
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.cpu.packing import Packing, collect, spread
from conjoin.torch.cpu.row_counts import rounded_up
from conjoin.torch.generation import reader
from conjoin.torch.model import route
from conjoin.torch.pair.halves import Encoder
from generate_models import NAMES, models, sources
from lanes import lanes_of_keys
from pairs import SOURCE, fresh, stir
from tiny_models import PAIRS, WHOLE, config, joined, loss_and_gradients

FAMILIES = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]
LENGTHS = (9, 4, 13, 0, 4, 1)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def padded(side: str, pad: int, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Ids and their mask, padded on one side or on both."""
    width = max(lengths) + 3
    starts = {"right": [0] * len(lengths), "left": [width - n for n in lengths], "both": [2] * len(lengths)}[side]
    here = torch.arange(width)
    first, count = (torch.tensor(numbers)[:, None] for numbers in (starts, lengths))
    mask = (here >= first) & (here < first + count)
    ids = torch.randint(oracle.FIRST_ORDINARY_ID, 50, mask.shape, generator=torch.Generator().manual_seed(3))
    return ids.masked_fill(~mask, pad), mask.long()


@contextmanager
def with_padding() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route, "can_pack", lambda stack, mask: False)
        yield


@torch.no_grad()
def both_ways(encoder: Encoder, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """What the encoder gives packed, and with padding."""
    packed = encoder(*given, **named).last_hidden_state
    with with_padding():
        return packed, encoder(*given, **named).last_hidden_state


@pytest.mark.parametrize("key", lanes_of_keys(FAMILIES))
def test_every_family_gives_the_same_states_without_padding(key: str, tmp_path: Path) -> None:
    oracle.save_encoder(key, tmp_path)
    encoder = Encoder.from_pretrained(tmp_path)
    pad = oracle.TINY[key].get("pad_token_id") or 0
    for side in ("right", "left", "both"):
        ids, mask = padded(side, pad)
        packed, plain = both_ways(encoder, ids, mask)
        real = mask.bool()
        trained = encoder(ids, mask).last_hidden_state  # with gradients, no native pass takes the sequences
        for found in (packed, trained):
            torch.testing.assert_close(found[real], plain[real], **CLOSE)
            assert not found[~real].any()


def test_everything_that_belongs_to_a_token_goes_along() -> None:
    encoder = stir(Encoder.from_config(SOURCE))
    ids, mask = padded("right", 4)
    positions = (torch.arange(ids.shape[1]) * 3 % 17).expand_as(ids)
    types = torch.arange(ids.shape[1]).expand_as(ids) % 2
    words = encoder.embed.words(ids).detach()
    for given_ in ({"input_ids": ids}, {"inputs_embeds": words}):
        packed, plain = both_ways(encoder, **given_, attention_mask=mask, position_ids=positions, token_type_ids=types)
        torch.testing.assert_close(packed[mask.bool()], plain[mask.bool()], **CLOSE)


@contextmanager
def multiplied(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, list[int]]]:
    """Rows that each linear layer is given, by the layer's id."""
    rows: dict[int, list[int]] = {}
    forward = Linear.forward

    def counting(layer: Linear, input: Tensor) -> Tensor:
        rows.setdefault(id(layer), []).append(input.numel() // input.shape[-1])
        return forward(layer, input)

    with monkeypatch.context() as patch:
        patch.setattr(Linear, "forward", counting)
        yield rows


def layers(module: torch.nn.Module, *names: str) -> list[int]:
    return [id(m) for name, m in module.named_modules() if isinstance(m, Linear) and name.endswith(names)]


@pytest.mark.parametrize("name", NAMES)
def test_generating_multiplies_real_tokens_of_the_source_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = models(name)
    lengths = (11, 3, 7, 3)
    ids, mask = sources(name, 1, lengths)
    for module in (route, reader):  # what the kernels multiply cannot be watched
        monkeypatch.setattr(module, "kernels_of", lambda *_: None)
    with multiplied(monkeypatch) as rows:
        model.generate(ids, attention_mask=mask, max_new_tokens=3, num_beams=2)
    for layer in (*layers(model.encoder, ""), *layers(model.decoder, "cross_attn.k", "cross_attn.v")):
        assert rows[layer] == [sum(lengths)]


KINDS: tuple[dict[str, Any], ...] = ({}, {"num_beams": 3}, {"do_sample": True})
CASES = [*((name, kind) for name in NAMES for kind in KINDS), ("bart", {"copy_speculation": True})]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_packing_changes_no_token(name: str, kind: dict[str, Any]) -> None:
    model, _ = models(name)
    ids, mask = sources(name, 2, (9, 2, 6, 9))

    def tokens() -> list[list[int]]:
        torch.manual_seed(0)
        return model.generate(ids, attention_mask=mask, max_new_tokens=12, **kind).tolist()

    packed = tokens()
    with with_padding():
        assert tokens() == packed


WIDE = (
    BertConfig(vocab_size=61, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128),
    T5Config(vocab_size=61, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"),
    LlamaConfig(vocab_size=61, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128),
)
"""Whole vectors: what PyTorch computes beside them, at the end of a tensor, it rounds another way."""


@pytest.mark.skipif(not native.has("float32"), reason="whether a library's product depends on other rows is its own")
@pytest.mark.parametrize("config", WIDE, ids=lambda config: config.model_type)
def test_a_source_gets_the_same_bits_alone_in_a_batch_and_beside_any_padding(
    config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_module, "_fastest", lambda dtype, size_class: native.linear)
    encoder = stir(Encoder.from_config(config)).eval()
    lengths = (70, 5, 133, 70, 1)
    ids, mask = padded("right", config.pad_token_id or 0, lengths)
    with torch.no_grad():
        together = encoder(ids, mask).last_hidden_state
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            for given_ in ((ids[one], mask[one]), (ids[one, :length], mask[one, :length]), (ids[one, :length],)):
                alone = encoder(*given_).last_hidden_state
                assert torch.equal(alone[0, :length], together[row, :length])


def test_a_source_with_gaps_is_read_as_if_they_were_not_there() -> None:
    encoder = stir(Encoder.from_config(SOURCE))
    ids, mask = padded("right", 4)
    mask[0, 3] = 0
    packed, plain = both_ways(encoder, ids, mask)
    real = mask.bool()
    torch.testing.assert_close(packed[real], plain[real], **CLOSE)
    assert not packed[~real].any()


def test_whoever_looks_inside_sees_the_batch_as_it_was_given() -> None:
    model = stir(fresh()).eval()
    ids, mask = padded("right", 4, (9, 4))
    with torch.no_grad():
        out = model.encoder(ids, mask, output_hidden_states=True, output_attentions=True)
        assert {tuple(states.shape) for states in out.hidden_states} == {(*ids.shape, 20)}
        assert out.attentions[0].shape == (2, 5, ids.shape[1], ids.shape[1])
        seen: list[tuple[int, ...]] = []
        hook = model.encoder.blocks[0].register_forward_hook(lambda _, __, made: seen.append(tuple(made.shape)))
        model.encoder(ids, mask)
        hook.remove()
    assert seen == [(*ids.shape, 20)]


def test_a_batch_of_padding_alone_is_no_error() -> None:
    model = stir(fresh()).eval()
    ids, mask = padded("right", 4, (0, 0))
    with torch.no_grad():
        assert model(ids, mask, torch.full((2, 3), 9)).logits.isfinite().all()


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6))
def test_unpacking_undoes_packing(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    x = torch.arange(1.0, 1 + mask.numel() * 2).view(*mask.shape, 2)
    for trains in (False, True):
        with torch.set_grad_enabled(trains):
            packing = Packing.of(mask)
        assert torch.equal(packing.unpack(packing.pack(x)), x * mask[..., None])
        assert torch.equal(packing.pack(x[:1]), packing.pack(x[:1].expand_as(x)))
        with torch.no_grad():
            groups = [own for own, _, _ in packing.mask(causal=False, window=None).parts]
        tokens = packing.pack(x).shape[1]
        assert tokens == (rounded_up(int(mask.sum()) + 1) if trains else int(mask.sum()))
        assert sum(group.sequences * group.length for group in groups) == tokens


SIZES = ((7, 3), (2, 5), (4, 4), (6, 1), (5, 9), (4, 4))
TRAINED = [*PAIRS, *((key, None) for key in WHOLE)]


def trained_pair(encoder: str, decoder: str | None) -> EncoderDecoderModel:
    return stir(EncoderDecoderModel(config=config(encoder))) if decoder is None else joined(encoder, decoder)


def padded_pairs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    sides = [[torch.randint(11, 50, (size,), generator=draw) for size in side] for side in zip(*SIZES, strict=True)]
    fill = {"input_ids": 4, "labels": -100}
    given = {name: pad_sequence(rows, True, value) for (name, value), rows in zip(fill.items(), sides, strict=True)}
    return given | {"attention_mask": pad_sequence([torch.ones_like(row) for row in sides[0]], True)}


def check_same_lesson(model: EncoderDecoderModel, given: dict[str, Tensor], **settings: Any) -> None:
    """Loss and gradients are those of the padded batch."""
    settings = {"output_logits": False, **settings}
    packed = loss_and_gradients(model, **given, **settings)
    with with_padding():
        padded = loss_and_gradients(model, **given, **settings)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("call_scores", [0, 20, 10**6])
@pytest.mark.parametrize(("encoder", "decoder"), TRAINED)
def test_a_batch_learns_the_same_without_its_padding(
    encoder: str, decoder: str | None, call_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing_module, "CALL_SCORES", call_scores)
    check_same_lesson(trained_pair(encoder, decoder), padded_pairs())


@pytest.mark.parametrize(("encoder", "decoder"), [("bert", "gpt2"), ("modernbert", "llama/yarn"), ("t5", None)])
def test_training_multiplies_real_tokens_and_little_filler(encoder: str, decoder: str | None) -> None:
    model = trained_pair(encoder, decoder).train()
    sources, targets = (rounded_up(sum(side) + 1) for side in zip(*SIZES, strict=True))
    with pytest.MonkeyPatch.context() as patch, multiplied(patch) as rows:
        loss_and_gradients(model, **padded_pairs(), output_logits=False)
    crossed = layers(model.decoder, "cross_attn.k", "cross_attn.v")
    assert {tuple(rows[layer]) for layer in (*layers(model.encoder, ""), *crossed)} == {(sources,)}
    own = [layer for layer in layers(model.decoder.blocks, "") if layer not in crossed]
    assert {tuple(rows[layer]) for layer in own} == {(targets,)}


def test_few_numbers_of_rows_are_multiplied_whatever_the_batches() -> None:
    """oneDNN compiles a product for each of them, and keeps it."""
    model = trained_pair("bert", "gpt2").train()
    draw = torch.Generator().manual_seed(1)
    rows: dict[int, list[int]] = {}
    for masked in (True, False) * 12:
        size, longest = (int(torch.randint(2, most, (), generator=draw)) for most in (9, 30))
        ids = torch.randint(11, 50, (size, longest), generator=draw)
        lengths = torch.randint(1, longest + 1, (size, 1), generator=draw)
        given: dict[str, Tensor] = {"attention_mask": (torch.arange(longest) < lengths).long()} if masked else {}
        labels = ids.masked_fill(torch.arange(longest) >= lengths, -100)
        with pytest.MonkeyPatch.context() as patch, multiplied(patch) as seen:
            loss_and_gradients(model, input_ids=ids, labels=labels, output_logits=False, **given)
        for layer, counts in seen.items():
            rows.setdefault(layer, []).extend(counts)
    assert len(rows) > 10
    for counts in rows.values():
        assert {count for count in counts if count != rounded_up(count)} == set()


def test_rounded_numbers_of_rows_are_few_and_near() -> None:
    assert rounded_up(0) == 0
    for rows in range(1, 5000):
        assert rows <= rounded_up(rows) == rounded_up(rounded_up(rows))
        assert rounded_up(rows) - rows < max(16, rows / 16)
    assert len({rounded_up(rows) for rows in range(512, 1024)}) <= 17


def test_checkpointing_and_smoothing_know_nothing_of_it() -> None:
    model = joined("roberta", "gpt2").train()
    model.gradient_checkpointing_enable()
    check_same_lesson(model, padded_pairs(), smoothing=0.1, num_items_in_batch=5)


def gaps(labels: Tensor) -> Tensor:
    changed = labels.clone()
    changed[0, 1] = changed[2, 0] = -100
    return changed


LABELS: dict[str, Any] = {
    "not counted in the middle": gaps,
    "padded on the left": lambda labels: labels.flip(1),
    "a target that does not count": lambda labels: labels.index_fill(0, torch.tensor([1]), -100),
    "nothing counts": lambda labels: torch.full_like(labels, -100),
}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", LABELS)
def test_whatever_is_counted_is_computed(name: str, masked: bool) -> None:
    model, given = joined("bert", "gpt2"), padded_pairs()
    given["labels"] = LABELS[name](given["labels"])
    if not masked:
        given["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(given["labels"])
    check_same_lesson(model, given)


def test_batches_without_a_mask_or_with_logits_train_too() -> None:
    model, given = joined("bert", "gpt2"), padded_pairs()
    check_same_lesson(model, given, output_logits=True)
    check_same_lesson(model, given | {"attention_mask": None})


def test_a_source_of_padding_alone_trains() -> None:
    given = padded_pairs()
    given["attention_mask"][2] = 0
    check_same_lesson(joined("bert", "bert/small"), given)


def test_a_mask_that_does_not_fit_its_source_is_refused() -> None:
    model, given = joined("bert", "gpt2"), padded_pairs()
    encoded = model.encoder(given["input_ids"], given["attention_mask"])
    with pytest.raises(ShapeError, match=r"encoder_attention_mask has shape \(6, 5\)"):
        model(
            encoder_outputs=encoded,
            attention_mask=given["attention_mask"][:, :5],
            labels=given["labels"],
            output_logits=False,
        )


def test_a_watched_half_sees_the_batch_as_it_was_given() -> None:
    model, seen = joined("bert", "gpt2"), set[tuple[int, ...]]()
    model.decoder.blocks[0].register_forward_hook(lambda _, __, made: seen.add(tuple(made.shape[:2])))
    check_same_lesson(model, padded_pairs())
    assert seen == {(6, 9)}


def test_places_have_gradients_of_both_orders() -> None:
    places, x = torch.tensor([3, 0, 4]), torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    for function in (lambda x: collect(x, places), lambda x: spread(x[:3], places, 7)):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
