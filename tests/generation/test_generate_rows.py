"""What a source gets depends on nobody else in its batch, nor on when others leave it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from conjoin import EncoderDecoderModel
from conjoin.torch.generation.loop import Control
from generate_models import PAD, models, sources

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

LENGTHS = (7, 2, 9, 5, 9)
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, processed": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "greedy, looking at the source": {"encoder_repetition_penalty": 1.8, "encoder_no_repeat_ngram_size": 1},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "beams, early": {"num_beams": 3, "early_stopping": True, "length_penalty": 0.0},
    "beams, never": {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    "beams, looking at the source": {
        "num_beams": 3,
        "encoder_repetition_penalty": 1.8,
        "encoder_no_repeat_ngram_size": 1,
        "repetition_penalty": 1.3,
    },
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "num_return_sequences": 3},
    "diverse, looking at the source": {
        "num_beams": 4,
        "num_beam_groups": 4,
        "diversity_penalty": 1.0,
        "encoder_repetition_penalty": 1.8,
    },
    "constrained": {"num_beams": 4, "force_words_ids": [[20, 21], [[30], [31, 32]]]},
    "constrained, looking at the source": {
        "num_beams": 3,
        "force_words_ids": [[20]],
        "encoder_repetition_penalty": 1.8,
    },
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "contrastive, looking at the source": {"penalty_alpha": 0.6, "top_k": 4, "encoder_no_repeat_ngram_size": 1},
    "copies": {"copy_speculation": True},
    "copies, looking at the source": {"copy_speculation": True, "encoder_repetition_penalty": 1.8},
}
NAMES = ["electra-electra", "bart"]


def ends(model: EncoderDecoderModel, ids: Tensor, mask: Tensor) -> list[int]:
    """Ids that end results of different sources at different steps."""
    free = model.generate(ids, attention_mask=mask, max_new_tokens=9, num_beams=2)
    return sorted({7, int(free[0, 4]), int(free[2, 2]), int(free[3, 6])} - {PAD})


def setting(name: str, seed: int = 1) -> tuple[EncoderDecoderModel, Tensor, Tensor, dict[str, Any]]:
    model, _ = models(name, seed)
    ids, mask = sources(name, 5, LENGTHS)
    return model, ids, mask, {"max_new_tokens": 9, "eos_token_id": ends(model, ids, mask)}


def by_source(found: Tensor, count: int) -> list[list[list[int]]]:
    """Results of each source, the padding behind them cut off."""
    rows = found.view(count, -1, found.shape[1]).tolist()
    return [[_cut(row) for row in source] for source in rows]


def _cut(row: list[int]) -> list[int]:
    while row and row[-1] == PAD:
        row = row[:-1]
    return row


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_source_gets_in_a_batch_what_it_gets_alone(name: str, kind: str) -> None:
    model, ids, mask, shared = setting(name)
    given = {**shared, **KINDS[kind]}
    together = by_source(model.generate(ids, attention_mask=mask, **given), len(ids))
    for row in range(len(ids)):
        real = mask[row].bool()
        alone = model.generate(ids[row : row + 1, real], attention_mask=mask[row : row + 1, real], **given)
        assert by_source(alone, 1)[0] == together[row], row


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_batch_its_size_and_its_padding_change_nothing(kind: str) -> None:
    model, ids, mask, shared = setting("bart")
    given = {**shared, **KINDS[kind]}
    wanted = by_source(model.generate(ids, attention_mask=mask, **given), len(ids))
    order = [3, 0, 4, 4, 2, 1, 0]
    more = torch.nn.functional.pad(ids[order], (0, 4), value=PAD), torch.nn.functional.pad(mask[order], (0, 4))
    found = by_source(model.generate(more[0], attention_mask=more[1], **given), len(order))
    assert found == [wanted[row] for row in order]


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_the_ends_now_and_then_only_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which must not be waited for at every step."""
    model, ids, mask, shared = setting("bart")
    given = {**shared, **KINDS[kind], "attention_mask": mask}
    wanted = model.generate(ids, **given)
    for patience in (2, 4, 100):
        monkeypatch.setattr(Control, "looks", lambda self, steps, every=patience: steps % every == 0)
        assert model.generate(ids, **given).tolist() == wanted.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_returning_everything_changes_no_token(kind: str) -> None:
    model, ids, mask, shared = setting("bart")
    given = {**shared, **KINDS[kind], "attention_mask": mask}
    traced = model.generate(ids, **given, return_dict_in_generate=True, output_scores=True, output_logits=True)
    assert traced.sequences.tolist() == model.generate(ids, **given).tolist()
    assert len(traced.scores) == len(traced.logits) >= traced.sequences.shape[1] - 1
    assert traced.past_key_values is not None


class RowByRow:
    """A processor and criterion that notes what every row of a call held before: rows must not change places."""

    def __init__(self) -> None:
        self.before: list[list[int]] = []
        self.rows: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Tensor | None) -> Any:
        self.rows.append(len(input_ids))
        return scores if scores is not None else torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "copies" not in kind])
def test_rows_stay_where_they_are_for_whatever_callers_bring_along(kind: str) -> None:
    model, ids, mask, shared = setting("bart")
    given = {**shared, **KINDS[kind], "attention_mask": mask}
    wanted = model.generate(ids, **given).tolist()
    processor, criterion = RowByRow(), RowByRow()
    assert model.generate(ids, **given, logits_processor=[processor]).tolist() == wanted
    assert len({*processor.rows}) == 1 and processor.rows[0] % len(ids) == 0
    assert model.generate(ids, **given, stopping_criteria=[lambda i, s: criterion(i, None)]).tolist() == wanted
    if "constrained" not in kind:  # whose candidates are as many as there are
        assert len({*criterion.rows}) == 1 and criterion.rows[0] % len(ids) == 0


def test_criteria_see_the_scores_so_far_where_they_are_collected() -> None:
    model, ids, mask, shared = setting("bart")
    seen: list[Any] = []

    def look(input_ids: Tensor, scores: Any) -> bool:
        seen.append(scores)
        return False

    given = {**shared, "attention_mask": mask, "stopping_criteria": [look]}
    model.generate(ids, **given)
    assert seen and all(scores is None for scores in seen)
    seen.clear()
    model.generate(ids, **given, return_dict_in_generate=True, output_scores=True)
    assert [len(scores) for scores in seen] == [*range(1, len(seen) + 1)]


def test_the_function_that_allows_prefixes_gets_the_number_of_its_source() -> None:
    model, ids, mask, shared = setting("bart")
    words = {row: [20 + row, 30 + row] for row in range(len(ids))}

    def allowed(source: int, written: Tensor) -> list[int]:
        return words[source]

    for kind in ({}, {"num_beams": 3}, {"copy_speculation": True}, {"num_beams": 4, **KINDS["diverse"]}):
        found = model.generate(ids, attention_mask=mask, **shared, **kind, prefix_allowed_tokens_fn=allowed)
        for source, results in enumerate(by_source(found, len(ids))):
            for result in results:
                assert {*result[1:]} <= {*words[source]}


@pytest.mark.parametrize("kind", ["greedy", "copies", "contrastive", "diverse", "constrained", "beams"])
def test_prompts_padded_on_the_left_are_understood_by_every_kind(kind: str) -> None:
    """T5 knows distances only, so padding on the left changes nothing."""
    model, ids, mask, shared = setting("t5", 0)
    prompts = [[9, 20, 33, 41], [9, 27], [9], [9, 12, 30], [9, 50]]
    padded = torch.tensor([[PAD] * (4 - len(prompt)) + prompt for prompt in prompts])
    given = {**shared, **KINDS[kind], "max_new_tokens": 7, "repetition_penalty": 1.3}
    real = torch.tensor([[0] * (4 - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    found = model.generate(ids, attention_mask=mask, decoder_input_ids=padded, decoder_attention_mask=real, **given)
    for row, results in enumerate(by_source(found, len(ids))):
        one = slice(row, row + 1)
        alone = model.generate(
            ids[one], attention_mask=mask[one], decoder_input_ids=torch.tensor([prompts[row]]), **given
        )
        cut = 4 - len(prompts[row])
        assert [result[cut:] for result in results] == by_source(alone, 1)[0], row
