"""The loss without scores: the same loss and gradients as with them, in memory that the vocabulary does not change."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from conjoin import EncoderDecoderModel, spec
from conjoin.torch.cpu import cross_entropy
from conjoin.torch.cpu.cross_entropy import VocabProjection, cross_entropy_sum
from conjoin.torch.model.head import Head
from conjoin.torch.model.loss import IGNORED, token_loss
from training_toys import toy_model

SIZES = {"rows": 37, "vocab": 61, "width": 12}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows of 61 projection at once, so that 37 rows are five chunks."""
    monkeypatch.setitem(cross_entropy.CHUNK_SCORES, "cpu", 500)


def _given(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(SIZES["rows"], SIZES["width"], dtype=dtype).requires_grad_()
    weight = torch.randn(SIZES["vocab"], SIZES["width"], dtype=dtype).requires_grad_()
    shift = torch.randn(SIZES["vocab"], dtype=dtype).requires_grad_() if bias else None
    return x, weight, shift, torch.randint(SIZES["vocab"], (SIZES["rows"],))


def _plain(x: Tensor, projection: VocabProjection, labels: Tensor, smoothing: float) -> Tensor:
    scores = F.linear(x, projection.weight, projection.bias)
    if projection.softcap is not None:
        scores = torch.tanh(scores / projection.softcap) * projection.softcap
    return F.cross_entropy(scores.float(), labels, reduction="sum", label_smoothing=smoothing)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients_are_those_of_cross_entropy(bias: bool, smoothing: float, softcap: float | None) -> None:
    x, weight, shift, labels = _given(bias=bias)
    projection = VocabProjection(weight, shift, softcap)
    wanted = [tensor for tensor in (x, weight, shift) if tensor is not None]
    found, expected = (
        [loss.detach(), *torch.autograd.grad(loss / 7, wanted)]
        for loss in (cross_entropy_sum(x, projection, labels, smoothing), _plain(x, projection, labels, smoothing))
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 1e-6 * other.norm()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_vectors_behind_the_last_label_are_filler(smoothing: float) -> None:
    x, weight, shift, labels = _given()
    projection, few = VocabProjection(weight, shift, 3.0), labels[:21]
    found = torch.autograd.grad(cross_entropy_sum(x, projection, few, smoothing), (x, weight, shift))
    expected = torch.autograd.grad(_plain(x[:21], projection, few, smoothing), (x, weight, shift))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not found[0][21:].any()


@pytest.mark.usefixtures("small_chunks")
def test_only_what_is_trained_gets_a_gradient() -> None:
    x, weight, shift, labels = _given()
    assert shift is not None
    for kept in range(3):
        given = [tensor.detach().requires_grad_(at == kept) for at, tensor in enumerate((x, weight, shift))]
        cross_entropy_sum(given[0], VocabProjection(given[1], given[2]), labels).backward()
        assert [tensor.grad is not None for tensor in given] == [at == kept for at in range(3)]


def test_no_rows_are_no_loss() -> None:
    x, weight, shift, labels = _given()
    loss = cross_entropy_sum(x[:0], VocabProjection(weight, shift), labels[:0])
    loss.backward()
    assert loss.item() == 0 and weight.grad is not None and shift is not None and shift.grad is not None
    assert not weight.grad.any() and not shift.grad.any()


def test_its_gradient_cannot_be_differentiated_again() -> None:
    x, weight, shift, labels = _given()
    with pytest.raises(RuntimeError, match="output_logits=True"):
        torch.autograd.grad(cross_entropy_sum(x, VocabProjection(weight, shift), labels), x, create_graph=True)


@pytest.mark.usefixtures("small_chunks")
def test_autocast_computes_scores_in_its_own_dtype() -> None:
    x, weight, shift, labels = _given()
    exact = torch.autograd.grad(cross_entropy_sum(x, VocabProjection(weight, shift), labels), (x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_sum(x, VocabProjection(weight, shift), labels)
        plain = F.cross_entropy(F.linear(x, weight, shift).float(), labels, reduction="sum")
    torch.testing.assert_close(loss, plain, rtol=1e-3, atol=0)
    for one, other in zip(torch.autograd.grad(loss, (x, weight)), exact, strict=True):
        assert one.dtype == torch.float32 and (one - other).norm() <= 2e-2 * other.norm()


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and look at what it gives."""
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.untyped_storage().nbytes() // each.element_size())
        return made


def _largest(vocab_size: int, rows: int, width: int) -> int:
    x, weight = torch.randn(rows, width).requires_grad_(), torch.randn(vocab_size, width).requires_grad_()
    bias, labels = torch.zeros(vocab_size).requires_grad_(), torch.randint(vocab_size, (rows,))
    with Largest() as seen:
        cross_entropy_sum(x, VocabProjection(weight, bias), labels, 0.1).backward()
    return seen.elements


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cross_entropy.CHUNK_SCORES, "cpu", 2**19)
    found = [_largest(vocab_size, rows=1024, width=4) for vocab_size in (1_000, 8_000, 64_000)]
    assert max(found) <= 2**19
    assert min(found) > 0.8 * max(found)


def _heads() -> Iterator[Any]:
    transform = spec.HeadTransform(size=SIZES["width"], activation="gelu", norm=spec.LayerNorm(eps=1e-5))
    for name, changes in {
        "plain": {},
        "soft cap": {"softcap": 2.0},
        "scaled, biased": {"scale": 0.3, "bias": "trained"},
        "fixed bias": {"bias": "fixed"},
        "projection": {"projection": True, "size": 8},
        "transform": {"transform": transform, "bias": "trained"},
    }.items():
        for tied in (True, False):
            kind = {"vocab_size": SIZES["vocab"], "size": SIZES["width"], "tied": tied} | changes
            yield pytest.param(spec.Head(**kind), id=f"{name}, {'tied' if tied else 'untied'}")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", [*_heads()])
def test_every_kind_of_head(kind: spec.Head) -> None:
    torch.manual_seed(0)
    head = Head(kind, SIZES["width"])
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    projection = torch.randn(SIZES["vocab"], kind.size).requires_grad_()
    x, labels = torch.randn(SIZES["rows"], SIZES["width"]).requires_grad_(), _given()[3]
    trained = [x, *(p for p in head.parameters() if p.requires_grad), *([projection] if kind.tied else [])]
    for num_items in (None, 50):
        settings: dict[str, Any] = {"num_items": num_items, "label_smoothing": 0.2}
        found, expected = (
            [loss.detach(), *torch.autograd.grad(loss, trained)]
            for loss in (
                head.loss(x, projection, labels, **settings),
                token_loss(head(x, projection), labels, **settings),
            )
        )
        for one, other in zip(found, expected, strict=True):
            assert (one - other).norm() <= 2e-6 * other.norm()


def _batch(model: EncoderDecoderModel) -> dict[str, Tensor]:
    torch.manual_seed(1)
    labels = torch.randint(5, 20, (3, 7))
    labels[1, 3:] = labels[2, 1:5] = IGNORED
    return {"input_ids": torch.randint(5, 20, (3, 9)), "labels": labels}


@pytest.mark.usefixtures("small_chunks")
def test_a_model_gives_the_same_loss_and_gradients_with_and_without_logits() -> None:
    model = toy_model()
    batch = _batch(model)
    results = []
    for logits in (True, False):
        model.zero_grad()
        out = model(**batch, output_logits=logits, smoothing=0.1)
        assert (out.logits is not None) == logits
        out.loss.backward()
        results.append((out.loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)


def test_no_scores_of_positions_without_a_label() -> None:
    model = toy_model()
    batch = _batch(model)
    seen: list[tuple[int, ...]] = []
    handle = model.decoder.head.dense.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    with torch.no_grad():
        model(**batch, output_logits=False)
    handle.remove()
    assert seen == [(int((batch["labels"] != IGNORED).sum()), 12)]
