"""Shards of an input: whoever runs them, merged they are one run; and nothing is merged that is not whole."""

import json
from pathlib import Path

import pytest

from conjoin.bulk.inputs import Input
from conjoin.bulk.journal import Journal
from conjoin.bulk.outputs import OutputFile
from conjoin.bulk.parts import Trailer, merge, part_writer
from conjoin.bulk.rows import Intake
from conjoin.bulk.run import Run
from conjoin.bulk.shards import Shard
from conjoin.errors import ConfigError, DataError, FileError
from conjoin.evaluation.texts import Failed, Generated, Outcome

TEXTS = [f"text {number}" for number in range(11)]
RUN = {"model": "m", "generation": {"num_beams": 2}}


def generate(texts: object) -> list[list[Outcome]]:
    pairs: list[tuple[int, str]] = list(texts)  # pyright: ignore[reportArgumentType]
    return [
        [Failed(index, "bad") if text == "fails" else Generated(index, [text.upper()], False)] for index, text in pairs
    ]


def run_shard(output: Path, number: int, count: int, texts: list[str] = TEXTS, run: dict[str, object] = RUN) -> int:
    """Run a shard; returns the number of its sources that failed."""
    shard = Shard(number, count)
    intake = Intake(Input.of_texts(texts).entries, shard=shard, keep_errors=True)
    job = Run(intake, generate)

    def trailer() -> Trailer:
        return Trailer(
            sources=intake.total, input=intake.digest, failed=job.num_failed, columns=["prediction", "error"]
        )

    with Journal(shard.part(output), {**run, "shard": str(shard)}, shard=shard) as journal:
        job.to_journal(journal, part_writer(journal.path, shard, run, trailer))
    return job.num_failed


def lines(path: Path) -> list[str]:
    return [json.loads(line)["prediction"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("count", [1, 2, 3, 11, 20])
def test_shards_in_any_order_become_one_file_in_the_order_of_the_input(count: int, tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    if count == 1:
        output = tmp_path / "whole.jsonl"
        with Journal(output, RUN) as journal:
            Run(Intake(Input.of_texts(TEXTS).entries), generate).to_journal(
                journal, lambda results: OutputFile.of(output, None).write(lambda: (r.output for r in results()))
            )
    else:
        for number in range(count, 0, -1):
            run_shard(output, number, count)
        assert merge(OutputFile.of(output, None)) == (11, 0)
    assert lines(output) == [text.upper() for text in TEXTS]


def test_missing_and_unfinished_shards_are_named(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    with pytest.raises(FileError, match=r"There are no parts of .*o\.jsonl"):
        merge(OutputFile.of(output, None))
    run_shard(output, 2, 4)
    Journal(Shard(3, 4).part(output), RUN, shard=Shard(3, 4)).close()
    with pytest.raises(FileError) as caught:
        merge(OutputFile.of(output, None))
    message = str(caught.value)
    assert "3 of 4 shards of" in message
    assert "1/4: there is no o.jsonl.1-of-4" in message and "4/4: there is no o.jsonl.4-of-4" in message
    assert "3/4: " in message and "o.jsonl.3-of-4.partial is a run that was cut off" in message
    assert "2/4" not in message and not output.exists()


def test_parts_of_two_ways_to_divide_a_run_are_refused(tmp_path: Path) -> None:
    run_shard(tmp_path / "o", 1, 1 + 1)
    run_shard(tmp_path / "o", 1, 3)
    with pytest.raises(FileError, match="has parts of runs in 2, 3 shards"):
        merge(OutputFile.of(tmp_path / "o", None))


def test_parts_of_different_runs_and_inputs_are_refused(tmp_path: Path) -> None:
    run_shard(tmp_path / "o", 1, 2)
    run_shard(tmp_path / "o", 2, 2, run={**RUN, "model": "other"})
    with pytest.raises(FileError, match="are of different runs:\n  model: 'm' then, 'other' now"):
        merge(OutputFile.of(tmp_path / "o", None))
    run_shard(tmp_path / "p", 1, 2)
    run_shard(tmp_path / "p", 2, 2, texts=[*TEXTS[:-1], "another"])
    with pytest.raises(DataError, match="are of different inputs: of 11 and 11 sources"):
        merge(OutputFile.of(tmp_path / "p", None))


@pytest.mark.parametrize("damage", ["no last line", "a line less", "another part", "somebody's file", "empty"])
def test_damaged_parts_are_refused(damage: str, tmp_path: Path) -> None:
    output = tmp_path / "o"
    for number in (1, 2):
        run_shard(output, number, 2)
    part = Shard(2, 2).part(output)
    rows = part.read_bytes().splitlines(keepends=True)
    content = {
        "no last line": b"".join(rows[:-1]),
        "a line less": b"".join([*rows[:3], *rows[4:]]),
        "another part": Shard(1, 2).part(output).read_bytes(),
        "somebody's file": b'{"notes": 1}\n',
        "empty": b"",
    }[damage]
    part.write_bytes(content)
    with pytest.raises(FileError, match=r"o\.2-of-2"):
        merge(OutputFile.of(output, None))
    assert not output.exists()


def test_failures_are_counted_kept_and_tried_again_by_the_same_shard(tmp_path: Path) -> None:
    output = tmp_path / "o.jsonl"
    texts = [*TEXTS[:4], "fails", *TEXTS[5:]]
    assert (run_shard(output, 1, 2, texts), run_shard(output, 2, 2, texts)) == (1, 0)
    assert merge(OutputFile.of(output, None)) == (11, 1)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows[4] == {"source": "fails", "error": "bad"} and "error" not in rows[5]
    assert [path.name for path in tmp_path.glob("*.partial")] == ["o.jsonl.1-of-2.partial"]
    assert run_shard(output, 1, 2) == 0
    with pytest.raises(DataError, match="are of different inputs"):
        merge(OutputFile.of(output, None))
    run_shard(tmp_path / "p", 2, 2)
    Shard(2, 2).part(tmp_path / "p").rename(Shard(2, 2).part(output))
    assert merge(OutputFile.of(output, None)) == (11, 0)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", " 1/2", "1/2 ", "1/99999999999"]
)
def test_what_names_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="names no shard"):
        Shard.parse(text)


def test_shards_divide_any_input() -> None:
    for count in range(1, 6):
        shards = [Shard(number, count) for number in range(1, count + 1)]
        for total in range(12):
            assert sum(shard.size(total) for shard in shards) == total
            for shard in shards:
                held = [index for index in range(total) if shard.holds(index)]
                assert held == [shard.index(at) for at in range(shard.size(total))]
