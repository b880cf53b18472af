"""Pipelines return what those of transformers 4.57.6 returned, recorded call by call, but where a test says why not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline_models
from conjoin import pipeline
from conjoin.errors import ConfigError
from pipeline_cases import CASES, INPUTS, TEXTS, Case

RECORD = json.loads((Path(__file__).parents[1] / "support" / "fixtures" / "pipelines.json").read_text())
VERSION = RECORD.pop("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:A source has"),
    pytest.mark.filterwarnings("ignore:The task is translation without languages"),
]
SAME = [case for case in CASES if not case.differs]
DIFFERENT = {case.differs: case for case in CASES if case.differs}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {key: getattr(pipeline_models, key)(folder / key) for key in {case.model for case in CASES}}


def results(case: Case, folders: dict[str, Path]) -> Any:
    pipe = pipeline(case.task, model=folders[case.model], **case.made)
    made = pipe(INPUTS[case.inputs](), **case.called)
    return plain(made if isinstance(made, list) else list(made))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else getattr(value, "tolist", lambda: value)()


def test_the_record_is_of_these_calls_and_of_the_last_version_with_such_pipelines() -> None:
    assert VERSION == "4.57.6"
    assert list(RECORD) == [case.name for case in CASES]


@pytest.mark.parametrize("case", SAME, ids=lambda case: case.name)
def test_a_call_returns_what_it_returned_in_transformers(case: Case, folders: dict[str, Path]) -> None:
    assert results(case, folders) == RECORD[case.name]


def test_what_the_caller_says_wins_over_the_settings_of_the_task(folders: dict[str, Path]) -> None:
    """transformers let config.json's num_beams=3 win over the constructor's num_beams=1."""
    case = DIFFERENT["task before caller"]
    greedy = Case(case.model, case.task, case.inputs, {}, {**case.made, **case.called})
    assert results(case, folders) == results(greedy, folders) != RECORD[case.name]


def test_texts_and_ids_are_both_returned_if_both_are_asked_for(folders: dict[str, Path]) -> None:
    """As transformers' documentation said; its code returned the ids alone."""
    case = DIFFERENT["only ids"]
    made = results(case, folders)
    assert [{"summary_token_ids": each.pop("summary_token_ids")} for each in made] == RECORD[case.name]
    assert all(set(each) == {"summary_text"} for each in made)


def test_results_of_several_lengths_are_padded_with_the_pad_id(folders: dict[str, Path]) -> None:
    """transformers' beam search pads with the end id where the pad id is 0."""
    case = DIFFERENT["ends as pads"]
    made = [each["translation_token_ids"] for pair in results(case, folders) for each in pair]
    theirs = [each["translation_token_ids"] for pair in RECORD[case.name] for each in pair]
    assert made != theirs
    assert list(map(len, made)) == list(map(len, theirs))
    assert [row if 1 not in row else row[: row.index(1)] for row in made] == [
        row if 1 not in row else row[: row.index(1)] for row in theirs
    ]
    assert {token for row in made if 1 in row for token in row[row.index(1) + 1 :]} == {0}


@pytest.mark.parametrize("why", ["max_length has no effect", "max_length of the task has no effect"])
def test_max_length_ends_results(why: str, folders: dict[str, Path]) -> None:
    """transformers 4.57 let its own default, 256 new tokens, win over max_length."""
    case = DIFFERENT[why]
    made, theirs = results(case, folders), RECORD[case.name]
    key = f"{'summary' if case.task == 'summarization' else 'translation'}_text"
    assert max(len(each[key].split()) for each in theirs) > 30
    assert max(len(each[key].split()) for each in made) <= 6


def test_beams_of_the_models_file_win_over_the_default_of_pipelines(folders: dict[str, Path]) -> None:
    """As transformers' documentation said; its code took 4 beams in any case."""
    case = DIFFERENT["4 beams before the model's 2"]
    two, four = (
        results(Case("bart", case.task, case.inputs, case.made, {"num_beams": beams}), folders) for beams in (2, 4)
    )
    assert results(case, folders) == two
    assert RECORD[case.name] == four != two


def test_the_default_length_fits_into_the_decoders_positions(folders: dict[str, Path]) -> None:
    case = DIFFERENT["IndexError: 256 tokens of 40 positions"]
    assert RECORD[case.name] == "IndexError"
    (made,) = results(Case(case.model, case.task, case.inputs, {}, {"return_tensors": True}), folders)
    assert len(made["summary_token_ids"]) <= 41


def test_what_is_no_text_is_an_error_of_ours(folders: dict[str, Path]) -> None:
    case = DIFFERENT["TypeError"]
    assert RECORD[case.name] == "TypeError"
    with pytest.raises(ConfigError, match="got a int; expected a text"):
        results(case, folders)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["tf", "flax"])
def test_other_frameworks_return_the_same(framework: str, folders: dict[str, Path]) -> None:
    pytest.importorskip("tensorflow" if framework == "tf" else "jax")
    pipe = pipeline("translation_en_to_de", model=folders["t5"], framework=framework, max_new_tokens=9)
    made = pipe(TEXTS, return_tensors=True)
    name = next(case.name for case in SAME if case.made == {"max_new_tokens": 9} and case.inputs == "list")
    assert [{key: np.asarray(ids).tolist() for key, ids in each.items()} for each in made] == RECORD[name]
    assert pipe.device is None
