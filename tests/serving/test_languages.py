"""Requests that name languages, to models whose tokenizers know them."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path
from typing import Any

import httpx
import pytest

from conjoin import EncoderDecoderModel
from conjoin.serving import reading
from conjoin.serving.limits import Limits
from conjoin.serving.request import Request
from servers import start_server
from translation_folders import KINDS, TEXTS, expected, folders

pytestmark = pytest.mark.filterwarnings("ignore:A source has")


@pytest.mark.parametrize("kind", ["marian", "nllb", "m2m_100"])
def test_a_translator_answers_in_the_language_that_is_asked_for(kind: str, tmp_path: Path) -> None:
    tokenizer, theirs = folders(kind, tmp_path / "checkpoint")
    row = expected(kind, tokenizer, theirs, TEXTS[1])
    words = tokenizer.decode(row, skip_special_tokens=True).strip()
    how = {"num_beams": 1, "max_new_tokens": 12}
    flags = ("--translate", "fr:de", "--translate", "de:fr", "--max-rows", "4")
    with start_server(tmp_path / "checkpoint", *flags) as server, httpx.Client(base_url=server.url) as http:
        codes = KINDS[kind][2]
        named = {"src_lang": codes[0], "tgt_lang": codes[1]} if codes else {}
        for languages in (named, {"src_lang": "fr", "tgt_lang": "de"}):
            body = {"inputs": TEXTS[1], "parameters": {**how, **languages}}
            assert http.post("/generate", json=body).json()["generated_text"] == words
        asked = {"q": TEXTS[1], "source": "fr", "target": "de"}
        assert http.post("/translate", json=asked).json()["translatedText"].startswith(words[:4])
        back = http.post("/translate", json={**asked, "source": "de", "target": "fr"}).json()["translatedText"]
        assert back != words
        odd = http.post("/generate", json={"inputs": "a", "parameters": {"tgt_lang": "klingon"}})
        assert odd.status_code == 422 and "klingon" in odd.text


@pytest.mark.parametrize("kind", ["nllb", "m2m_100"])
def test_a_prefix_stands_behind_the_language(kind: str, tmp_path: Path) -> None:
    """What is forced to begin a result is forced behind the start only, and the prefix stands there."""
    tokenizer, _ = folders(kind, tmp_path)
    model: Any = EncoderDecoderModel.from_pretrained(tmp_path)
    source, target = KINDS[kind][2]
    words = tokenizer(text_target=TEXTS[1])["input_ids"]
    inner = [token for token in words if token not in tokenizer.all_special_ids][:2]
    asked = Request(source=TEXTS[1], languages=(source, target), prefix=tokenizer.decode(inner))
    prompt = reading.read(model, asked, Limits())
    code = prompt.settings["forced_bos_token_id"]
    assert code in tokenizer.all_special_ids and prompt.prefix == [code, *inner]
    given = reading.read(model, Request(source=TEXTS[1], languages=(source, target), prefix=(code, *inner)), Limits())
    assert given.prefix == [code, *inner]
    assert reading.read(model, Request(source=TEXTS[1], languages=(source, target)), Limits()).prefix == []


def test_a_request_without_languages_is_not_read_in_those_of_another(tmp_path: Path) -> None:
    folders("nllb", tmp_path)
    model: Any = EncoderDecoderModel.from_pretrained(tmp_path)
    plain = Request(source=TEXTS[1])
    usual = reading.read(model, plain, Limits()).ids
    with ThreadPoolExecutor(1) as pool:
        with reading._languages(model, ("deu_Latn", "fra_Latn")):
            assert model.tokenizer(TEXTS[1])["input_ids"] != usual
            other = pool.submit(reading.read, model, plain, Limits())
            with pytest.raises(StillRunning):
                other.result(0.3)
        assert other.result(20).ids == usual
