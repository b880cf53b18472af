"""The audit names every difference between a model and a checkpoint in one error."""

import pytest

from conjoin.checkpoint import audit
from conjoin.errors import WeightError


def test_agreement_is_quiet() -> None:
    found = audit({"a": (2, 3)}, {"a": (2, 3)}, label="out")
    assert (found.missing, found.unexpected, found.misshapen) == ((), (), ())
    found.raise_for()


def test_all_problems_of_all_kinds_come_in_one_error() -> None:
    found = audit({"a": (2,), "b": (1,), "c": ()}, {"a": (3,), "x": (1,), "y": (4, 5)}, label="encoder of out")
    with pytest.raises(WeightError) as caught:
        found.raise_for(hint="try another family")
    assert str(caught.value) == (
        "encoder of out: the weights do not fit the model.\n"
        "2 tensors missing:\n  b\n  c\n"
        "2 tensors not expected:\n  x\n  y\n"
        "1 tensor of another shape:\n  a: (3,) found, (2,) expected\n\n"
        "hint: try another family"
    )


def test_kinds_can_be_left_out() -> None:
    found = audit({"a": (2,)}, {"x": (1,)}, label="out")
    with pytest.raises(WeightError, match="1 tensor missing") as caught:
        found.raise_for(unexpected=False)
    assert "not expected" not in str(caught.value)
    audit({}, {"x": (1,)}, label="out").raise_for(unexpected=False)
