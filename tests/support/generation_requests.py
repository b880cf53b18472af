"""A small model's facts, and requests made for it: shared by the tests of generation settings."""

import warnings
from typing import Any

import pytest

from conjoin.errors import ConjoinWarning, GenerationError
from conjoin.generation import CallFacts, GenerationConfig, ModelFacts, Request, resolve
from conjoin.join import SpecialTokens

V = 53
TOKENS = SpecialTokens(start=1, pad=0, eos=(2,), bos=None)
MODEL = ModelFacts(vocab_size=V, max_positions=32, tokens=TOKENS)
CALL = CallFacts(tokenizer=True)


def request_of(asked: dict[str, Any] | None = None, *, model: ModelFacts = MODEL, **settings: Any) -> Request:
    """The request of these settings, which must not warn."""
    call = settings.pop("call", CALL)
    config = settings.pop("config", GenerationConfig(max_new_tokens=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return resolve(config, {**(asked or {}), **settings}, model=model, call=call)


def error_of(**settings: Any) -> str:
    with pytest.raises(GenerationError) as told:
        request_of(**settings)
    return str(told.value)


def warning_of(**settings: Any) -> str:
    call = settings.pop("call", CALL)
    config = settings.pop("config", GenerationConfig(max_new_tokens=9))
    given = settings.pop("given", None)
    with pytest.warns(ConjoinWarning) as told:
        resolve(config, settings, model=MODEL, call=call, given=given)
    assert len(told) == 1
    return str(told[0].message)
