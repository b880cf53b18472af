"""JSON in, requests out, and back: pure functions, without a server."""

from typing import Any

import pytest
from pydantic import ValidationError

from conjoin.serving.dialects import chat, completions, generate, libretranslate, openai, responses
from conjoin.serving.refusal import Kind, Refusal
from conjoin.serving.refusals import of_validation
from conjoin.serving.request import Answer, Attention, Likely, Piece, Result, Token


def completion(**fields: Any) -> Any:
    return completions.read(completions.CompletionBody.model_validate({"prompt": "a", **fields}))


def told(read: Any) -> Refusal:
    with pytest.raises((Refusal, ValidationError)) as caught:
        read()
    error = caught.value
    return error if isinstance(error, Refusal) else of_validation(error.errors())


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
        ({"top_p": 0.9}, {"do_sample": True, "top_p": 0.9}),
        ({"top_p": 1}, {}),
        ({"n": 3}, {"num_beams": 4, "num_return_sequences": 3}),
        ({"n": 6}, {"num_beams": 6, "num_return_sequences": 6}),
        ({"n": 2, "best_of": 5}, {"num_beams": 5, "num_return_sequences": 2}),
        ({"best_of": 5}, {"num_beams": 5}),
        ({"use_beam_search": True}, {"num_beams": 4}),
        ({"use_beam_search": False}, {"num_beams": 1}),
        (
            {"n": 3, "temperature": 1},
            {"do_sample": True, "temperature": 1.0, "num_return_sequences": 3, "num_beams": 1},
        ),
        ({"length_penalty": 0.5, "min_tokens": 2}, {"length_penalty": 0.5, "min_new_tokens": 2}),
        ({"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "echo": False, "suffix": None}, {}),
        ({"user": "u", "metadata": {"a": 1}, "store": True, "service_tier": "auto"}, {}),
    ],
)
def test_openai_fields_become_settings(fields: dict[str, Any], settings: dict[str, Any]) -> None:
    assert dict(completion(**fields).requests[0].settings) == settings


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"n": True}, "n"),
        ({"n": 0}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"use_beam_search": True, "temperature": 1}, "use_beam_search"),
        ({"max_token": 7}, "max_token"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
    ],
)
def test_impossible_openai_fields_are_named(fields: dict[str, Any], field: str) -> None:
    refusal = told(lambda: completion(**fields))
    body = openai.error_body(refusal)
    assert body["error"]["param"] == field
    assert field in body["error"]["message"]


@pytest.mark.parametrize(
    ("prompt", "sources"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([5, 6], [(5, 6)]), ([[5], [6, 7]], [(5,), (6, 7)])],
)
def test_prompts_are_texts_or_ids(prompt: Any, sources: list[Any]) -> None:
    assert [request.source for request in completion(prompt=prompt).requests] == sources


def messages(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_the_last_user_message_is_the_source_and_an_assistant_message_begins_the_target() -> None:
    body = messages(("system", "s"), ("user", "old"), ("assistant", "x"), ("user", "new"), ("assistant", "begin"))
    (request,) = chat.read(chat.ChatBody.model_validate(body)).requests
    assert (request.source, request.prefix) == ("new", "begin")
    assert told(lambda: chat.read(chat.ChatBody.model_validate(body), strict=True)).field == "messages"
    alone = messages(("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))
    assert chat.read(chat.ChatBody.model_validate(alone), strict=True).requests[0].source == "ab"


@pytest.mark.parametrize(
    "body",
    [
        messages(("assistant", "a")),
        messages(("user", "a"), ("system", "b")),
        messages(("user", "a"), ("assistant", "b"), ("assistant", "c")),
        messages(("user", [{"type": "image_url", "image_url": {"url": "x"}}])),
        {**messages(("user", "a")), "tools": [{"type": "function"}]},
        {**messages(("user", "a")), "response_format": {"type": "json_object"}},
        {**messages(("user", "a")), "top_logprobs": 3},
        {"messages": []},
    ],
)
def test_chats_that_cannot_be_answered_are_refused(body: dict[str, Any]) -> None:
    refusal = told(lambda: chat.read(chat.ChatBody.model_validate(body)))
    assert refusal.kind is Kind.INVALID and refusal.field


def test_responses_read_texts_and_messages() -> None:
    def read(**fields: Any) -> Any:
        return responses.read(responses.ResponseBody.model_validate(fields)).requests[0]

    assert read(input="a").source == "a"
    message = {"role": "user", "content": [{"type": "input_text", "text": "b"}]}
    assert read(input=[message], max_output_tokens=4, truncation="disabled").settings == {"max_new_tokens": 4}
    assert not read(input="a", truncation="disabled").cut
    assert told(lambda: read(input="a", previous_response_id="r")).field == "previous_response_id"
    assert told(lambda: read(input="a", background=True)).field == "background"


def generated(**parameters: Any) -> Any:
    return generate.read(generate.GenerateBody.model_validate({"inputs": "a", "parameters": parameters})).requests[0]


def test_generate_takes_every_setting_and_its_own_words() -> None:
    request = generated(
        num_beams=3,
        num_return_sequences=2,
        length_penalty=0.5,
        target_prefix=[4, 5],
        attention={"layer": 1},
        priority="bulk",
        timeout=3.5,
        stop=["x"],
        truncate=9,
        top_n_tokens=2,
        sequence_bias=[[[5], -1.0]],
    )
    assert request.settings["num_beams"] == 3 and request.settings["sequence_bias"] == [[[5], -1.0]]
    assert request.prefix == (4, 5) and request.attention == Attention(layer=1)
    assert (request.priority, request.timeout_s, request.stop) == ("bulk", 3.5, ("x",))
    assert (request.max_source_tokens, request.top) == (9, 2)


def test_tgi_samples_where_a_warper_is_set() -> None:
    assert generated(temperature=0.5).settings["do_sample"] is True
    assert generated(temperature=0.5, do_sample=False).settings["do_sample"] is False
    assert "do_sample" not in generated(penalty_alpha=0.6, top_k=4).settings
    assert generated(best_of=3, do_sample=True).settings["num_return_sequences"] == 3
    assert told(lambda: generated(best_of=3)).field == "parameters.best_of"


@pytest.mark.parametrize(
    "parameters",
    [
        {"return_full_text": True},
        {"watermark": True},
        {"grammar": {"type": "json"}},
        {"decoder_input_details": True},
        {"frequency_penalty": 0.1},
        {"output_scores": True},
        {"constraints": []},
        {"max_time": 3},
    ],
)
def test_impossible_parameters_are_named(parameters: dict[str, Any]) -> None:
    refusal = told(lambda: generated(**parameters))
    assert next(iter(parameters)) in generate.error_body(refusal)["error"]


def test_unknown_parameters_are_named_as_inference_client_understands() -> None:
    refusal = told(lambda: generated(foo=1, num_beams=2, bar=None))
    assert generate.error_body(refusal)["error"].startswith(
        "The following `model_kwargs` are not used by the model: ['foo', 'bar']."
    )


def test_flags_that_are_off_ask_for_nothing() -> None:
    off = {"return_full_text": False, "watermark": False, "decoder_input_details": False, "details": False}
    assert generated(**off).settings == {}


ANSWER = Answer(
    results=(
        Result(
            text="the cat",
            continuation=" cat",
            finish="eos_token",
            num_tokens=2,
            score=-0.5,
            tokens=(
                Token(id=5, text=" cat", logprob=-0.1, top=(Likely(id=5, text=" cat", logprob=-0.1, special=False),)),
                Token(id=2, text="", special=True, logprob=-0.2),
            ),
        ),
        Result(text="the dog", continuation=" dog", finish="length", num_tokens=1, score=-0.9),
    ),
    source_tokens=4,
    was_cut=True,
    seed=3,
    warnings=("temperature has no effect.",),
)
HEAD: dict[str, Any] = {"id": "x", "created": 1, "model": "m"}


def test_answers_in_openais_form() -> None:
    body = completions.write([ANSWER, ANSWER], **HEAD)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [choice["finish_reason"] for choice in body["choices"][:2]] == ["stop", "length"]
    assert body["usage"] == {"prompt_tokens": 8, "completion_tokens": 6, "total_tokens": 14}
    assert body["source_was_cut"] == [True, True] and body["warnings"] == ["temperature has no effect."]
    assert body["choices"][0]["logprobs"]["text_offset"] == [0, 4]
    message = chat.write([ANSWER], **HEAD)["choices"][0]
    assert message["message"]["content"] == " cat"
    assert message["logprobs"]["content"][0]["bytes"] == list(b" cat")
    whole = responses.write(ANSWER, **HEAD, body=responses.ResponseBody(input="a"))
    assert whole["status"] == "completed" and whole["output"][0]["content"][0]["text"] == " cat"


def test_answers_in_tgis_form() -> None:
    body = generate.GenerateBody.model_validate({"inputs": "a", "parameters": {"details": True}})
    (whole,) = generate.write_tasks([ANSWER], body, model="m")
    assert whole["generated_text"] == whole["summary_text"] == whole["translation_text"] == "the cat"
    assert whole["details"]["tokens"][0] == {"id": 5, "text": " cat", "logprob": -0.1, "special": False}
    assert [each["generated_text"] for each in whole["sequences"]] == ["the cat", "the dog"]
    assert whole["source_was_cut"] and whole["warnings"]


def test_best_of_returns_the_likeliest_sample() -> None:
    def result(text: str, logprob: float) -> Result:
        token = Token(id=1, text=text, logprob=logprob)
        return Result(text=text, continuation=text, finish="length", num_tokens=1, tokens=(token,))

    answer = Answer(results=(result("a", -2.0), result("b", -1.0)), source_tokens=1)
    fields = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True, "details": True}}
    (whole,) = generate.write([answer], generate.GenerateBody.model_validate(fields), model="m")
    assert whole["generated_text"] == "b"
    assert [each["generated_text"] for each in whole["details"]["best_of_sequences"]] == ["a"]


def test_streams_tell_what_pieces_tell() -> None:
    pieces = [
        Piece(text="the", tokens=(Token(id=4, text="the"),)),
        Piece(text=" cat", tokens=(Token(id=5, text=" cat"), Token(id=2, text="", special=True))),
    ]
    body = generate.GenerateBody.model_validate({"inputs": "a"})
    streams: list[tuple[Any, Any]] = [
        (completions.Stream(**HEAD, copies=2, include_usage=True), lambda e: e["choices"][0]["text"]),
        (chat.Stream(**HEAD, copies=2, include_usage=True), lambda e: e["choices"][0]["delta"].get("content", "")),
        (responses.Stream(**HEAD, body=responses.ResponseBody(input="a")), lambda e: e.get("delta", "")),
        (generate.Stream(body, model="m"), lambda e: e["token"]["text"]),
    ]
    for stream, text_of in streams:
        events = [*stream.begin(), *(event for piece in pieces for event in stream.piece(0, piece))]
        last = stream.answer(0, ANSWER)
        if isinstance(stream, generate.Stream):
            events, last = [*events, *last], []
            assert events[-1]["generated_text"] == "the cat" and events[-1]["details"]["finish_reason"] == "eos_token"
            assert [event["generated_text"] for event in events[:-1]] == [None, None]
        assert "".join(text_of(event) for event in events) == "the cat"
        ended = stream.end([ANSWER])
        if isinstance(stream, completions.Stream | chat.Stream):
            assert [event["choices"][0]["finish_reason"] for event in last] == ["stop", "length"]
            assert ended[0]["choices"] == [] and ended[0]["usage"]["total_tokens"] == 7
    numbers = [event["sequence_number"] for event in [*streams[2][0].begin()]]
    assert numbers == sorted(numbers)


PAIRS = {("en", "de"): "ende", ("en", "fr"): "enfr"}


def test_libretranslate_chooses_the_model_of_the_pair() -> None:
    def read(**fields: Any) -> Any:
        return libretranslate.read(libretranslate.TranslateBody.model_validate({"q": "a", **fields}), PAIRS)

    assert read(source="en", target="fr").model == "enfr"
    assert read(source="auto", target="de").model == "ende"
    assert read(source="en", target="de", alternatives=5).requests[0].settings["num_return_sequences"] == 6
    assert [request.source for request in read(q=["a", "b"], source="en", target="de").requests] == ["a", "b"]
    assert told(lambda: read(source="de", target="en")).field == "target"
    assert told(lambda: read(source="en", target="de", format="html")).field == "format"
    body = libretranslate.TranslateBody.model_validate(
        {"q": ["a"], "source": "auto", "target": "de", "alternatives": 1}
    )
    whole = libretranslate.write([ANSWER], body, PAIRS)
    assert whole["translatedText"] == ["the cat"] and whole["alternatives"] == [["the dog"]]
    assert whole["detectedLanguage"] == [{"confidence": 0, "language": "en"}] and whole["sourceWasCut"] == [True]
    assert libretranslate.languages(PAIRS)[1] == {"code": "en", "name": "en", "targets": ["de", "fr"]}
    two = {**PAIRS, ("it", "de"): "itde"}
    with pytest.raises(Refusal, match="not detected"):
        libretranslate.detect(two)
