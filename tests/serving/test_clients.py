"""Clients as people have them, unchanged, against a server: their answers are the words of `generate`."""

import asyncio
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import openai
import pytest
import torch
from huggingface_hub.errors import ValidationError
from libretranslatepy import LibreTranslateAPI

from command_line import folder_fixture  # noqa: F401  (fixture)
from conjoin import EncoderDecoderModel
from servers import Server, start_server

SOURCE, OTHER = "a dog ran to the old mat", "the cat sat"
KEY = "key-one-1"


@pytest.fixture(name="server", scope="module", params=["open", "keys"])
def server_fixture(folder: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of two models, one for translation, that asks for no key, and one that does."""
    flags: list[str | Path] = ["--translate", "en:de=second", "--max-rows", "16"]
    if request.param == "keys":
        keys = tmp_path_factory.mktemp("keys") / "keys"
        keys.write_text(f"{KEY}\n")
        flags += ["--api-key-file", keys]
    with start_server(f"{folder}=first", f"{folder}=second", *flags) as server:
        yield server


@pytest.fixture(name="model", scope="module")
def model_fixture(folder: Path) -> EncoderDecoderModel:
    return EncoderDecoderModel.from_pretrained(folder).eval()


@pytest.fixture(name="hub")
def hub_fixture(server: Server, monkeypatch: pytest.MonkeyPatch) -> huggingface_hub.InferenceClient:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # set for all tests, refuses 127.0.0.1 too
    return huggingface_hub.InferenceClient(server.url, provider="hf-inference", api_key=KEY)


@pytest.fixture(name="client")
def client_fixture(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(name="libre")
def libre_fixture(server: Server) -> LibreTranslateAPI:
    return LibreTranslateAPI(server.url, KEY)


def expected(model: EncoderDecoderModel, source: str, **settings: Any) -> list[str]:
    ids = model.generate(model.tokenizer(source, return_tensors="pt").input_ids, **settings)
    return model.tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_inference_client_summarizes_and_translates(
    hub: huggingface_hub.InferenceClient, server: Server, model: EncoderDecoderModel
) -> None:
    (words,) = expected(model, SOURCE)
    assert hub.summarization(SOURCE).summary_text == words
    cleaned = hub.summarization(SOURCE, clean_up_tokenization_spaces=False, truncation="longest_first")
    assert cleaned.summary_text == words
    beams = hub.summarization(SOURCE, generate_parameters={"num_beams": 3})
    assert beams.summary_text == expected(model, SOURCE, num_beams=3)[0]
    assert hub.translation(SOURCE).translation_text == words
    second = f"{server.url}/models/second"
    assert hub.translation(SOURCE, model=second, src_lang="en", tgt_lang="de").translation_text == words
    with pytest.raises(huggingface_hub.errors.BadRequestError, match="en to de"):
        hub.translation(SOURCE, model=second, src_lang="fr", tgt_lang="de")


def test_inference_client_generates_text(hub: huggingface_hub.InferenceClient, model: EncoderDecoderModel) -> None:
    (words,) = expected(model, SOURCE, max_new_tokens=12)
    assert hub.text_generation(SOURCE, max_new_tokens=12) == words
    detailed: Any = hub.text_generation(SOURCE, max_new_tokens=12, details=True, top_n_tokens=2)
    assert detailed.generated_text == words
    assert detailed.details.generated_tokens == len(detailed.details.tokens)
    assert all(token.logprob <= 0 for token in detailed.details.tokens)
    assert detailed.details.tokens[0].id == detailed.details.top_tokens[0][0]["id"]
    sampled: Any = hub.text_generation(SOURCE, do_sample=True, seed=4, temperature=0.9, top_k=9, details=True)
    assert sampled.details.seed == 4
    assert hub.text_generation(SOURCE, do_sample=True, seed=4, temperature=0.9, top_k=9) == sampled.generated_text
    with pytest.raises(ValidationError, match="return_full_text"):
        hub.text_generation(SOURCE, return_full_text=True)


def test_inference_client_streams_text(hub: huggingface_hub.InferenceClient, model: EncoderDecoderModel) -> None:
    (words,) = expected(model, SOURCE, max_new_tokens=12)
    assert "".join(hub.text_generation(SOURCE, max_new_tokens=12, stream=True)) == words
    pieces: list[Any] = list(hub.text_generation(SOURCE, max_new_tokens=12, stream=True, details=True))
    assert "".join(piece.token.text for piece in pieces) == words == pieces[-1].generated_text
    assert pieces[-1].details.generated_tokens == len(pieces)
    stop = words[3:5]
    cut = words[: words.find(stop)]
    assert hub.text_generation(SOURCE, max_new_tokens=12, stop=[stop]) == cut
    assert "".join(hub.text_generation(SOURCE, max_new_tokens=12, stop=[stop], stream=True)) == cut


def test_inference_client_drops_a_parameter_that_is_not_known(
    hub: huggingface_hub.InferenceClient, model: EncoderDecoderModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.inference import _common
    from huggingface_hub.inference._providers.hf_inference import HFInferenceTask

    unknown: dict[Any, list[str]] = {}
    prepare: Any = HFInferenceTask._prepare_payload_as_dict

    def as_a_later_client(self: Any, inputs: Any, parameters: Any, provider_mapping_info: Any) -> Any:
        more = {} if unknown else {"of_a_later_client": 1}
        return prepare(self, inputs, {**parameters, **more}, provider_mapping_info)

    monkeypatch.setattr(_common, "_UNSUPPORTED_TEXT_GENERATION_KWARGS", unknown)
    monkeypatch.setattr(HFInferenceTask, "_prepare_payload_as_dict", as_a_later_client)
    (words,) = expected(model, SOURCE)
    assert hub.text_generation(SOURCE) == words
    assert unknown == {None: ["of_a_later_client"]}
    with pytest.warns(UserWarning, match="not served via TGI"):
        assert hub.text_generation(SOURCE, details=True) == words


def test_inference_client_chats(hub: huggingface_hub.InferenceClient, model: EncoderDecoderModel) -> None:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SOURCE}]
    (words,) = expected(model, SOURCE, max_new_tokens=12)
    whole: Any = hub.chat_completion(messages, max_tokens=12)
    assert whole.choices[0].message.content == words
    assert whole.usage.completion_tokens > 0
    pieces: list[Any] = list(hub.chat_completion(messages, max_tokens=12, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == words
    scored: Any = hub.chat_completion(messages, max_tokens=12, logprobs=True, top_logprobs=2)
    assert len(scored.choices[0].logprobs.content[0].top_logprobs) == 2


def test_inference_client_asks_how_the_server_is(hub: huggingface_hub.InferenceClient, server: Server) -> None:
    assert hub.health_check()
    assert hub.get_endpoint_info()["model_id"] == "first"
    assert hub.health_check(model=f"{server.url}/models/second")
    assert hub.get_endpoint_info(model=f"{server.url}/models/second")["model_id"] == "second"
    assert not hub.health_check(model=f"{server.url}/models/third")


def test_inference_client_reaches_every_model_by_its_url(
    hub: huggingface_hub.InferenceClient, server: Server, model: EncoderDecoderModel
) -> None:
    messages: Any = [{"role": "user", "content": SOURCE}]
    second = huggingface_hub.InferenceClient(f"{server.url}/models/second", provider="hf-inference", api_key=KEY)
    (words,) = expected(model, SOURCE)
    assert second.text_generation(SOURCE) == words
    told: Any = second.chat_completion(messages)
    assert (told.model, told.choices[0].message.content) == ("second", words)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="no model"):
        hub.summarization(SOURCE, model=f"{server.url}/models/third")


def test_openai_completes(client: openai.OpenAI, model: EncoderDecoderModel) -> None:
    one = client.completions.create(model="second", prompt=SOURCE, max_tokens=12)
    assert one.model == "second" and one.choices[0].text == expected(model, SOURCE, max_new_tokens=12)[0]
    assert one.usage and one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    beams = client.completions.create(model="first", prompt=[SOURCE, OTHER], n=2, logprobs=2, max_tokens=8)
    settings = {"num_beams": 4, "num_return_sequences": 2, "max_new_tokens": 8}
    assert [choice.index for choice in beams.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in beams.choices] == [
        text for source in (SOURCE, OTHER) for text in expected(model, source, **settings)
    ]
    for choice in beams.choices:
        logprobs: Any = choice.logprobs
        assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
        assert all(1 <= len(top) <= 2 for top in logprobs.top_logprobs)  # tokens of one text share an entry
    ids: list[int] = model.tokenizer(SOURCE).input_ids  # pyright: ignore
    for prompt in (ids, [ids]):
        told = client.completions.create(model="first", prompt=prompt, max_tokens=12)
        assert told.choices[0].text == one.choices[0].text
    sampled = {
        client.completions.create(model="first", prompt=SOURCE, temperature=1.0, seed=3).choices[0].text
        for _ in range(2)
    }
    assert len(sampled) == 1


def test_openai_streams_completions(client: openai.OpenAI, model: EncoderDecoderModel) -> None:
    texts = ["", ""]
    usage: Any = None
    for chunk in client.completions.create(
        model="first", prompt=[SOURCE, OTHER], stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [expected(model, source)[0] for source in (SOURCE, OTHER)]
    assert usage.completion_tokens > 0


def test_openai_chats(client: openai.OpenAI, model: EncoderDecoderModel) -> None:
    (words,) = expected(model, SOURCE)
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": SOURCE}]}]
    whole = client.chat.completions.create(model="first", messages=messages, logprobs=True, top_logprobs=3)
    assert whole.choices[0].message.content == words
    content: Any = whole.choices[0].logprobs and whole.choices[0].logprobs.content
    assert "".join(bytes(token.bytes).decode() for token in content) == words
    assert all(len(token.top_logprobs) == 3 for token in content)
    text, usage = "", None
    for chunk in client.chat.completions.create(
        model="first", messages=messages, stream=True, stream_options={"include_usage": True}
    ):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == words and usage == whole.usage
    stop = words[3:5]
    with client.chat.completions.stream(model="first", messages=messages, stop=stop) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == words[: words.find(stop)]


def test_openai_continues_an_assistant_message(client: openai.OpenAI, model: EncoderDecoderModel) -> None:
    target: Any = model.tokenizer.target  # pyright: ignore
    ids = torch.tensor([target(" n n", add_special_tokens=False)["input_ids"]])
    (right,) = expected(model, SOURCE, decoder_input_ids=ids)
    messages: Any = [{"role": "user", "content": SOURCE}, {"role": "assistant", "content": " n n"}]
    told = client.chat.completions.create(model="first", messages=messages)
    assert " n n" + (told.choices[0].message.content or "") == right


def test_openai_responds(client: openai.OpenAI, model: EncoderDecoderModel) -> None:
    (words,) = expected(model, SOURCE)
    message: Any = {"role": "user", "content": [{"type": "input_text", "text": SOURCE}]}
    for input in (SOURCE, [message]):
        told = client.responses.create(model="first", input=input)
        assert told.output_text == words and told.usage
        assert told.status == ("incomplete" if told.incomplete_details else "completed")
    events = list(client.responses.create(model="first", input=SOURCE, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == words
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.output_text == words


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["first", "second"]
    assert client.models.retrieve("second").id == "second"


def test_openai_raises_its_own_errors(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="'third'") as unknown:
        client.completions.create(model="third", prompt=SOURCE)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("third")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="first", prompt=SOURCE, suffix="x")
    assert wrong.value.param == "suffix"
    with pytest.raises(openai.BadRequestError, match="best_off"):
        client.completions.create(model="first", prompt=SOURCE, extra_body={"best_off": 2})
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="first", prompt="")
    late = {"timeout": 1e-4, "min_tokens": 60}
    with pytest.raises(openai.APIStatusError) as given_up:
        client.completions.create(model="first", prompt=SOURCE, n=8, max_tokens=60, extra_body=late)
    assert given_up.value.status_code == 504
    if "--api-key-file" in server.flags:
        stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="key-one-2", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.completions.create(model="first", prompt=SOURCE)


def test_openai_runs_many_at_once(server: Server, model: EncoderDecoderModel) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:

            async def one(number: int) -> str:
                source, beams = (SOURCE, OTHER)[number % 2], number % 3 + 1
                if number % 4:
                    extra: Any = {"best_of": beams} if beams > 1 else {"extra_body": {"use_beam_search": False}}
                    told = await client.completions.create(model="first", prompt=source, **extra)
                    return told.choices[0].text
                text = ""
                message: Any = {"role": "user", "content": source}
                stream: Any = await client.chat.completions.create(
                    model="second", messages=[message], stream=True, extra_body={"best_of": beams}
                )
                async for chunk in stream:
                    text += "".join(choice.delta.content or "" for choice in chunk.choices)
                return text

            return await asyncio.gather(*(one(number) for number in range(24)))

    told = asyncio.run(ask())
    for number, text in enumerate(told):
        assert text == expected(model, (SOURCE, OTHER)[number % 2], num_beams=number % 3 + 1)[0], number


def test_openai_is_told_of_a_full_queue(folder: Path) -> None:
    with start_server(folder, "--max-queue", "2", "--max-rows", "1") as server:

        async def ask() -> list[Any]:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
                more = {"min_tokens": 50, "use_beam_search": True}
                calls = [
                    client.completions.create(model="", prompt=SOURCE, max_tokens=50, extra_body=more)
                    for _ in range(12)
                ]
                return await asyncio.gather(*calls, return_exceptions=True)

        refused = [told for told in asyncio.run(ask()) if isinstance(told, Exception)]
        assert refused and all(isinstance(error, openai.RateLimitError) for error in refused)


def test_libretranslate_translates(libre: LibreTranslateAPI, server: Server, model: EncoderDecoderModel) -> None:
    assert libre.translate(SOURCE, "en", "de") == expected(model, SOURCE)[0]
    assert libre.translate("1 + 1 = 2 & more; ü", "en", "de") == expected(model, "1 + 1 = 2 & more; ü")[0]
    assert libre.detect(SOURCE) == [{"confidence": 0, "language": "en"}]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        libre.translate(SOURCE, "en", "fr")
    if "--api-key-file" in server.flags:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            LibreTranslateAPI(server.url).translate(SOURCE, "en", "de")


def test_libretranslate_lists_languages(libre: LibreTranslateAPI) -> None:
    assert libre.languages() == [
        {"code": "de", "name": "de", "targets": []},
        {"code": "en", "name": "en", "targets": ["de"]},
    ]
