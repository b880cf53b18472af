"""What decoding costs, in calls, rows and bytes; nothing here looks at a clock."""

import gc
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conjoin import EncoderDecoderModel
from conjoin.torch.cpu import native
from conjoin.torch.generation.generate import Run
from conjoin.torch.generation.reader import Reader
from conjoin.torch.generation.select import best, top_k
from conjoin.torch.generation.watch import Watch as Scores
from conjoin.torch.model.cache import KVCache, keep_order
from generate_models import models, sources
from lanes import thinned

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 4},
    "beams": {"num_beams": 4},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "constrained": {"num_beams": 4, "force_words_ids": [[20]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
}
ROWS = {"greedy": 1, "sampling": 4, "beams": 4, "diverse": 4, "constrained": 4, "contrastive": 4}
NEVER = 52
"""An end id that these models do not write."""


class Watch:
    """Every reading of the decoder: its shape, and the readers that read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.readers: list[Reader] = []
        start, read = Reader.__init__, Reader.read

        def started(reader: Reader, *arguments: Any, **keywords: Any) -> None:
            self.readers.append(reader)
            start(reader, *arguments, **keywords)

        def watched(reader: Reader, ids: Tensor, *more: Any) -> Tensor:
            self.shapes.append(tuple(ids.shape))
            return read(reader, ids, *more)

        monkeypatch.setattr(Reader, "__init__", started)
        monkeypatch.setattr(Reader, "read", watched)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def setting(name: str = "bart", seed: int = 0) -> tuple[EncoderDecoderModel, Tensor, dict[str, Any]]:
    model, _ = models(name, seed)
    ids, mask = sources(name, 0)
    return model, ids, {"attention_mask": mask, "eos_token_id": NEVER}


@contextmanager
def counted(modules: list[torch.nn.Module]) -> Iterator[list[tuple[int, ...]]]:
    """Shapes that the modules are called with."""
    shapes: list[tuple[int, ...]] = []
    hooks = [m.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape))) for m in modules]
    yield shapes
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bart", "bert-gpt2", "t5"])
def test_keys_and_values_of_the_source_are_projected_once(name: str, kind: str) -> None:
    model, ids, given = setting(name)
    projections = [getattr(block.cross_attn, part) for block in model.decoder.blocks for part in ("k", "v")]
    with counted(projections) as shapes:
        model.generate(ids, **given, max_new_tokens=6, **KINDS[kind])
    assert len(shapes) == len(projections) and {shape[0] for shape in shapes} == {len(ids)}


def test_beams_cost_no_cache_of_the_source(watch: Watch) -> None:
    model, ids, given = setting()
    held = []
    for beams in (1, 8):
        found = model.generate(ids, **given, max_new_tokens=6, num_beams=beams, return_dict_in_generate=True)
        held.append(found.past_key_values.cross_bytes)
        model.generate(ids, **given, max_new_tokens=6, num_beams=beams)
        held.append(watch.readers[-1].cache.cross_bytes)
    assert len({*held}) == 1 and held[0] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_read_once_per_source_and_each_word_once_per_row(
    kind: str, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "native_requests", lambda self, control: None)  # whose passes cannot be watched
    model, ids, given = setting()
    prompt = torch.tensor([[9, 20, 30]]).expand(len(ids), -1)
    found = model.generate(ids, **given, max_new_tokens=7, decoder_input_ids=prompt, **KINDS[kind])
    new = found.shape[1] - 3
    assert new == 7
    more = [(len(ids) * ROWS[kind], 1)] * (new if kind == "contrastive" else new - 1)
    assert watch.shapes == [(len(ids), 3), *more]


@pytest.mark.parametrize("kind", KINDS)
def test_finished_sources_leave_the_batch(kind: str, watch: Watch) -> None:
    model, _ = models("electra-electra", 1)
    ids, mask = sources("electra-electra", 5, (7, 2, 9, 5, 9))

    def allowed(source: int, written: Tensor) -> list[int]:
        """Source s ends with its word number 3 + s // 2."""
        return [NEVER] if len(written) >= 3 + source // 2 else [20, 30, 40, 50]

    model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=9,
        eos_token_id=NEVER,
        prefix_allowed_tokens_fn=allowed,
        **KINDS[kind],
    )
    rows = [shape[0] // ROWS[kind] for shape in watch.shapes[1:]]
    assert rows == ([5, 5, 5, 3, 1] if kind == "contrastive" else [5, 5, 3, 1])
    cache = watch.readers[0].cache
    assert cache.cross[0][0].shape[0] == 1 and cache.keys[0].shape[0] == ROWS[kind]


@pytest.fixture(params=["by kernel", "in plain steps"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in plain steps":
        monkeypatch.setattr(native, "has", lambda kernel: False)


def _append(cache: KVCache, count: int, rows: int = 6) -> None:
    for layer in range(2):
        cache.append(layer, torch.randn(rows, 2, count, 3), torch.randn(rows, 2, count, 3))
    cache.advance(count)


def _held(cache: KVCache) -> list[Tensor]:
    return [tensor[:, :, : cache.length].clone() for tensor in (*cache.keys, *cache.values)]


@pytest.mark.usefixtures("either_way")
def test_rows_with_another_parent_get_what_they_do_not_share_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[int, list[int]]] = []
    move = KVCache._move

    def watched(self: KVCache, first: int, to: Tensor, sources: Tensor) -> None:
        moved.append((first, to.tolist()))
        move(self, first, to, sources)

    monkeypatch.setattr(KVCache, "_move", watched)
    cache = KVCache(room=9)
    _append(cache, 4)
    for parents, expected in (
        ([0, 1, 2, 3, 4, 5], []),
        ([0, 0, 2, 5, 4, 4], [(0, [1, 3, 5])]),
        ([1, 0, 2, 3, 5, 4], [(5, [0, 1, 4, 5])]),  # what came before the last time they have in common
        ([0, 1, 4, 3, 4, 5], [(0, [2])]),
    ):
        moved.clear()
        before = _held(cache)
        cache.reorder(torch.tensor(parents))
        assert moved == expected
        for tensor, old in zip(_held(cache), before, strict=True):
            assert tensor.equal(old[parents])
        _append(cache, 1)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_to_rows_they_hold_what_they_should(seed: int) -> None:
    draw = random.Random(seed)
    cache, rows = KVCache(room=3), 6
    _append(cache, 2)
    expected = _held(cache)
    for _ in range(40):
        match draw.choice(["reorder", "reorder", "append", "append", "crop", "expand", "keep"]):
            case "reorder":
                parents = [draw.randrange(rows) for _ in range(rows)]
                cache.reorder(torch.tensor(parents))
                expected = [tensor[parents] for tensor in expected]
            case "append":
                _append(cache, draw.choice([1, 1, 3]), rows)
                count = expected[0].shape[2]
                expected = [
                    torch.cat([old, new[:, :, count:]], 2) for old, new in zip(expected, _held(cache), strict=True)
                ]
            case "crop":
                length = max(1, cache.length - draw.randrange(3))
                cache.crop(length)
                expected = [tensor[:, :, :length] for tensor in expected]
            case "expand" if rows < 12:
                cache.expand(2)
                rows, expected = 2 * rows, [tensor.repeat_interleave(2, 0) for tensor in expected]
            case "keep" if rows > 6:
                order = keep_order(sorted(draw.sample(range(rows), rows - 3)))
                cache.keep(order, 1)
                rows, expected = rows - 3, [tensor[order] for tensor in expected]
            case _:
                continue
        assert all(found.equal(old) for found, old in zip(_held(cache), expected, strict=True))


def test_the_buffer_for_moving_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "has", lambda kernel: False)
    cache = KVCache(room=9)
    _append(cache, 4)
    cache.reorder(torch.tensor([1, 0, 2, 3, 4, 5]))
    made = cache._scratch
    _append(cache, 1)
    cache.reorder(torch.tensor([5, 4, 3, 2, 1, 0]))
    assert made is not None and cache._scratch is made


def test_what_is_kept_stays_where_it_can() -> None:
    assert keep_order([0, 1, 2]) == [0, 1, 2]
    assert keep_order([0, 2, 3]) == [0, 3, 2] or keep_order([0, 2, 3]) == [0, 2, 3]
    for kept in ([1, 4], [0, 5, 6], [2], [3, 4, 5, 6]):
        order = keep_order(kept)
        assert sorted(order) == kept
        assert all(order[index] == index for index in kept if index < len(kept))


@pytest.mark.parametrize("words", [4096, 5000, 8191, 30522])
@pytest.mark.parametrize("k", [1, 8, 12])
def test_the_best_words_are_those_of_topk(words: int, k: int) -> None:
    scores = torch.randn(3, words)
    scores[1, : words // 2] = -torch.inf
    scores[2, -5:] += 9
    wanted = scores.topk(k)
    values, where = top_k(scores, k)
    assert values.equal(wanted.values) and scores.gather(1, where).equal(values)
    assert where.equal(wanted.indices)


@pytest.mark.parametrize("words", [7, 4095, 4096, 4160, 30522, 50265])
def test_the_best_word_is_argmax_and_the_first_of_equals(words: int) -> None:
    scores = torch.randint(0, 50, (9, words), generator=torch.Generator().manual_seed(words)).float()
    scores[0] = -torch.inf
    scores[1, -1] = 99.0
    scores[2, words // 2] = scores[2, 3] = 99.0
    assert torch.equal(best(scores), scores.argmax(-1))


def test_small_vocabularies_and_many_words_are_found_too() -> None:
    for words, k in ((7, 7), (53, 20), (5000, 4000), (4097, 64)):
        scores = torch.randn(2, words)
        values, where = top_k(scores, k)
        assert values.equal(scores.topk(k).values) and scores.gather(1, where).equal(values)


class Allocations(TorchDispatchMode):
    """Bytes that operations make anew, by the step in which they do."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch
        self.bytes: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        fresh = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(made)}
        self.bytes[len(self.watch.shapes)] += sum(size for place, size in fresh.items() if place not in given)
        return made


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = [*value.values()]
    return [t for each in value for t in _tensors(each)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("kind", ["greedy", "sampling", "beams", "diverse", "contrastive"])
def test_a_late_step_makes_no_more_than_an_early_one(kind: str, watch: Watch) -> None:
    """Each step reads what was written before it, but none copies it; what attention needs per position is small."""
    model, ids, given = setting("bert-gpt2")
    torch.manual_seed(0)
    with Allocations(watch) as made:
        model.generate(ids, **given, max_new_tokens=50, **KINDS[kind])
    early, late = [made.bytes[step] for step in range(5, 15)], [made.bytes[step] for step in range(38, 48)]
    per_position = 3 * ROWS[kind] * 3 * 8 * 3  # scores of attention: sources * rows, heads, bytes, layers
    assert max(late) <= max(early) + 35 * per_position


def test_nothing_is_kept_per_step() -> None:
    model, ids, given = setting("bert-gpt2")

    def alive() -> int:
        gc.collect()
        return sum(type(each) is Tensor for each in gc.get_objects())

    counts: list[int] = []

    class Count:
        def __call__(self, input_ids: Tensor, scores: Any) -> bool:
            counts.append(alive())
            return False

    model.generate(ids, **given, max_new_tokens=8, num_beams=3, stopping_criteria=[Count()])
    assert max(counts[3:]) - min(counts[3:]) <= 2


class Over(Exception):
    """The loop has come to its end."""


MODES = ["greedy", "sampling", "beams", "diverse", "contrastive"]


@pytest.mark.parametrize(("kind", "processed"), thinned(3, MODES, [False, True]))
def test_a_gpu_is_not_waited_for_between_two_looks(kind: str, processed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device tensors have no values: whoever asks for one, as a program that waits would, fails."""

    def over(watch: Scores) -> None:
        assert len(watch._noted) == 7, "it looks at the scores before the last step"
        raise Over

    monkeypatch.setattr(Scores, "look", over)
    model, ids, given = setting("electra-electra")
    there = type(model)(config=model.config).to("meta")
    more = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3, "suppress_tokens": [20]}
    given = {**given, "attention_mask": given["attention_mask"].to("meta"), **(more if processed else {})}
    with pytest.raises(Over):
        there.generate(ids.to("meta"), **given, max_new_tokens=7, **KINDS[kind])
