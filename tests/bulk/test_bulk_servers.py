"""Runs on servers: busy ones are asked again, dead ones are left out, and sources that are refused are found."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulk_servers import Body, fake, upper
from command_line import folder_fixture, run_fixture  # noqa: F401  (fixtures)
from conjoin import EncoderDecoderModel
from conjoin.bulk import fleet, server
from conjoin.bulk.http import checked_url
from conjoin.bulk.server import Servers
from conjoin.errors import ConfigError, ConjoinError, ConjoinWarning, GenerationError
from conjoin.evaluation import MBR, TextSettings, generate_texts
from conjoin.evaluation.texts import Failed, source_seed
from servers import start_server


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers rest for a short time."""
    monkeypatch.setattr(fleet, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(fleet, "LONGEST_WAIT_S", 0.05)


TEXTS = [(index, f"text {index}") for index in range(50)]
WANTED = {index: text.upper() for index, text in TEXTS}


def outcomes(servers: Servers, texts: Any = TEXTS) -> dict[int, str]:
    """The results by index; every index comes once."""
    found = [outcome for batch in servers.run(texts) for outcome in batch]
    assert len({outcome.index for outcome in found}) == len(found)
    return {each.index: each.error if isinstance(each, Failed) else each.texts[0] for each in found}


def some(*urls: str, batch_size: int = 8, **settings: Any) -> Servers:
    return Servers(urls, "m", TextSettings(batch_size=batch_size, **settings))


def test_a_request_has_the_settings_and_the_seed_of_its_first_source() -> None:
    generation = {"num_beams": 3, "do_sample": True}
    with fake() as one:
        settings = TextSettings(batch_size=8, generation=generation, seed=5, max_source_length=99)
        servers = Servers([one.url], "m", settings, languages=("en_XX", None), key="secret")
        texts = [pair for pair in TEXTS if pair[0] not in (3, 4)]
        assert outcomes(servers, texts) == {index: WANTED[index] for index, _ in texts}
    parameters = {**generation, "priority": "bulk", "truncate": 99, "src_lang": "en_XX"}
    for body in one.bodies:
        first = int(body["inputs"][0].split()[1])
        assert body["inputs"] == [f"text {first + place}" for place in range(len(body["inputs"]))]
        assert body == {
            "model": "m",
            "inputs": body["inputs"],
            "parameters": {**parameters, "seed": source_seed(5, first)},
        }
    assert {*one.keys} == {"Bearer secret"}


def test_two_servers_share_a_run() -> None:
    meeting = threading.Barrier(4)

    def answer(body: Body) -> Any:
        if len(one.bodies) + len(two.bodies) <= 4:
            meeting.wait(20)
        return upper(body)

    with fake(answer) as one, fake(answer) as two:
        assert outcomes(some(one.url, two.url, batch_size=5)) == WANTED
        assert len(one.bodies) + len(two.bodies) == 10 and len(one.bodies) >= 2 and len(two.bodies) >= 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    seen: list[Body] = []

    def answer(body: Body) -> Any:
        seen.append(body)
        busy = (status, {"error": "full"}, {"retry-after": ["0.02", "soon", ""][len(seen) % 3]})
        return busy if len(seen) % 3 else upper(body)

    with fake(answer) as one:
        assert outcomes(some(one.url)) == WANTED
    assert len(seen) > 7


def test_a_server_says_how_long_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LONGEST_WAIT_S", 10.0)
    times: list[float] = []

    def answer(body: Body) -> Any:
        times.append(time.monotonic())
        return (429, {"error": "full"}, {"retry-after": "1"}) if len(times) == 1 else upper(body)

    with fake(answer) as one:
        assert len(outcomes(Servers([one.url], "m", TextSettings(), requests=1), TEXTS[:3])) == 3
    assert 1.0 <= times[1] - times[0] < 5


def test_a_server_that_cannot_be_reached_is_left_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with fake() as one:
        assert outcomes(some(nobody, one.url)) == WANTED


def test_a_run_gives_up_when_no_server_has_answered_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    servers = some(nobody)
    monkeypatch.setattr(servers, "_fleet", fleet.Fleet([nobody], patience_s=0.2))
    with pytest.raises(ConjoinError, match=rf"No server has answered for 0.2 seconds.\n  {nobody}: .*refused"):
        outcomes(servers)


def test_a_server_that_ends_over_a_request_is_tried_again_and_the_guilty_source_is_found() -> None:
    def answer(body: Body) -> Any:
        return None if "text 13" in body["inputs"] else upper(body)

    with fake(answer) as one, fake() as two:
        one_failed = outcomes(some(one.url))
        assert one_failed.pop(13).startswith(f"HTTP 500: {one.url}: ")
        assert one_failed == {index: text for index, text in WANTED.items() if index != 13}
        assert len(one.bodies) <= 7 + 3 * 5 + 3
        assert outcomes(some(one.url, two.url)).keys() == WANTED.keys()


@pytest.mark.parametrize(("status", "value"), [(400, {"error": "too long"}), (422, {"error": {"message": "too long"}})])
def test_a_source_that_is_refused_fails_alone(status: int, value: Any) -> None:
    def answer(body: Body) -> Any:
        return (status, value, {}) if "text 13" in body["inputs"] else upper(body)

    with fake(answer) as one:
        assert outcomes(some(one.url)) == {**WANTED, 13: f"HTTP {status}: too long"}


def test_a_server_that_takes_fewer_sources_at_once_gets_fewer() -> None:
    def answer(body: Body) -> Any:
        return (413, {"error": "send fewer"}, {}) if len(body["inputs"]) > 3 else upper(body)

    with fake(answer) as one:
        assert outcomes(some(one.url, batch_size=32)) == WANTED


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_server_that_refuses_everything_ends_the_run(status: int) -> None:
    with fake(lambda body: (status, {"error": "There is no model 'm'."}, {})) as one:
        with pytest.raises(GenerationError, match=rf"A server refuses: HTTP {status}: There is no model 'm'."):
            outcomes(some(one.url))
        assert len(one.bodies) <= 4


@pytest.mark.parametrize("value", [b"<html>", {}, [], [{"text": "a"}], [1, 2, 3], None])
def test_what_is_no_answer_ends_the_run(value: Any) -> None:
    with (
        fake(lambda body: (200, value, {})) as one,
        pytest.raises(GenerationError, match="something else than as many"),
    ):
        outcomes(some(one.url), TEXTS[:3])


def test_empty_sources_are_not_sent() -> None:
    with fake() as one:
        servers = some(one.url, generation={"num_return_sequences": 2, "num_beams": 2})
        found = [each for batch in servers.run([(0, ""), (1, "a"), (2, " ")]) for each in batch]
    assert [body["inputs"] for body in one.bodies] == [["a"]]
    assert {each.index: getattr(each, "texts", None) for each in found} == {0: ["", ""], 1: ["A"], 2: ["", ""]}


def test_results_scores_cut_sources_and_warnings_are_passed_on() -> None:
    results = [{"generated_text": "A", "score": -0.5}, {"generated_text": "B", "score": -0.75}]
    value = [{"generated_text": "A", "sequences": results, "source_was_cut": True, "warnings": ["Fewer results."]}]
    with fake(lambda body: (200, value, {})) as one:
        with pytest.warns(ConjoinWarning, match="Fewer results"):
            ((made,),) = some(one.url, scores=True).run([(7, "a")])
        assert not isinstance(made, Failed)
        assert (made.index, made.texts, made.cut, made.scores) == (7, ["A", "B"], True, [-0.5, -0.75])
    with fake() as one, pytest.raises(GenerationError, match="Only beam search has scores"):
        outcomes(some(one.url, scores=True))


def test_servers_of_different_models_are_refused() -> None:
    with fake() as one, fake() as two, fake() as three:
        one.info = {"models": [{"id": "x", "fingerprint": "1"}, {"id": "m", "fingerprint": "2"}]}
        three.info = {"models": "?"}
        assert some(one.url, two.url, three.url).fingerprint() == "2"
        assert some(two.url).fingerprint() is None
        two.info = {"models": [{"id": "m", "fingerprint": "3"}]}
        with pytest.raises(
            ConjoinError, match=rf"different models under the name 'm':\n  {one.url}: 2\n  {two.url}: 3"
        ):
            some(one.url, two.url).fingerprint()


@pytest.mark.parametrize("text", ["", "localhost:8000", "ftp://a", "http://", "http://a:x", "http://a:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a server"):
        checked_url(text)


def test_a_run_on_servers_that_was_cut_off_goes_on(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for _, text in TEXTS))
    words = ("generate", "m", "-i", tmp_path / "in.txt", "-o", tmp_path / "out.txt", "--batch-size", "4")
    broken = threading.Event()

    def answer(body: Body) -> Any:
        return (404, {"error": "gone"}, {}) if broken.is_set() else upper(body)

    def break_later(body: Body) -> Any:
        found = answer(body)
        if len(one.bodies) > 5:
            broken.set()
        return found

    monkeypatch.setenv("CONJOIN_API_KEY", "secret")
    with fake(break_later) as one, fake() as two:
        one.info = two.info = {"models": [{"id": "m", "fingerprint": "2"}]}
        told = run(*words, "--server", one.url)
        assert told.code == 1 and "A server refuses: HTTP 404: gone" in told.err
        two.info = {"models": [{"id": "m", "fingerprint": "3"}]}
        told = run(*words, "--server", two.url)
        assert told.code == 1 and "served: '2' then, '3' now" in told.err
        two.info = one.info
        told = run(*words, "--server", f"{two.url}/")
        assert told.code == 0 and "results exist already" in told.err
        sent = [text for body in two.bodies for text in body["inputs"]]
        assert 0 < len(sent) < 50 and {*two.keys} == {"Bearer secret"}
    assert (tmp_path / "out.txt").read_text().splitlines() == [*WANTED.values()]


@pytest.mark.parametrize("words", [("--workers", "2"), ("--ray", "local"), ("--device", "cpu"), ("--dtype", "float32")])
def test_what_the_servers_decide_cannot_be_asked_for(words: tuple[str, str], run: Any) -> None:
    told = run("generate", "m", "a", "--server", "http://127.0.0.1:1", *words)
    assert told.code == 2 and words[0] in told.err and "the servers decide this" in told.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--num-beams", "3", "--num-return-sequences", "2", "--scores"),
        ("--sample", "--seed", "7", "--num-return-sequences", "2"),
        ("--max-source-length", "5"),
    ],
    ids=["greedy", "beams", "samples", "cut"],
)
def test_a_real_server_writes_the_words_of_one_process(
    words: tuple[str, ...], run: Any, folder: Path, tmp_path: Path
) -> None:
    texts = [f"the dog number {number} ran to the old mat" + " again" * (number % 5) for number in range(40)]
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in [*texts, ""]))
    here = run("generate", folder, "-i", tmp_path / "in.txt", "--json", *words)
    with start_server(f"{folder}=tiny") as started:
        there = run("generate", "tiny", "-i", tmp_path / "in.txt", "--json", "--server", started.url, *words)
    assert here.code == there.code == 0, there.err
    for one, other in zip(map(json.loads, here.lines), map(json.loads, there.lines), strict=True):
        assert one.pop("scores", None) == pytest.approx(other.pop("scores", None), abs=1e-5)
        assert one == other
    if not words:
        model = EncoderDecoderModel.from_pretrained(folder)
        assert [json.loads(line)["prediction"] for line in there.lines] == [*generate_texts(model, texts), ""]


def test_requests_end_with_the_run() -> None:
    begun = threading.Event()

    def hang(body: Body) -> Any:
        begun.set()
        time.sleep(30)
        return None

    def reader() -> Iterator[tuple[int, str]]:
        yield TEXTS[0]
        begun.wait(20)
        raise KeyboardInterrupt

    started = time.monotonic()
    with fake(hang) as one, pytest.raises(KeyboardInterrupt):
        list(Servers([one.url], "m", TextSettings(batch_size=1), requests=1).run(reader()))
    assert time.monotonic() - started < 25
    assert server.REQUESTS == 2


def test_servers_make_candidates_and_the_choice_is_made_here() -> None:
    def answer(body: Body) -> Any:
        number = body["parameters"]["num_return_sequences"]
        drawn = [f"{'odd' if place == 0 else 'usual'} text" for place in range(number)]
        results = [{"generated_text": text} for text in drawn]
        return 200, [{"generated_text": drawn[0], "sequences": results} for _ in body["inputs"]], {}

    with fake(answer) as one:
        settings = TextSettings(batch_size=8, mbr=MBR(num_candidates=4), generation={"temperature": 0.5})
        found = outcomes(Servers([one.url], "m", settings), TEXTS[:5])
    assert found == {index: "usual text" for index in range(5)}
    assert [len(body["inputs"]) for body in one.bodies] == [2, 2, 1]
    expected = {"temperature": 0.5, "do_sample": True, "num_beams": 1, "num_return_sequences": 4}
    assert all(expected.items() <= body["parameters"].items() for body in one.bodies)
