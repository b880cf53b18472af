"""Which tests `make test` leaves to `make test-slow` for the time they take: a list that a measurement wrote.

    make test-slow PYTEST_ARGS="-n 2 --durations=0 --durations-min=0.05" | tee LOG
    python tests/support/slow_cases.py LOG

reads the durations that pytest printed on a quiet machine, and writes `slow_cases.txt`. Of every test function the
quickest case stays in the fast lane, unless it takes FUNCTION_S seconds or more; others stay below CASE_S. What KEPT
names stays all the same: without it the fast lane would not run that part of the library at all.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")
CASE_S, FUNCTION_S = 0.3, 1.5
KEPT = (
    "tests/bulk/test_bulk_commands.py::test_a_worker_that_is_killed_loses_and_repeats_no_line",
    "tests/cli/test_cli_generate.py::test_stdin_in_stdout_out",
    "tests/cli/test_cli_join.py::test_join_writes_a_pair_and_says_where_its_parameters_come_from",
    "tests/generation/test_generate_exact.py::test_tokens_are_transformers_tokens",
    "tests/serving/test_servers.py::test_a_server_is_ready_when_it_is_returned_and_exits_with_0",
    "tests/tensorflow/test_tensorflow_generate.py::test_every_model_writes_what_torch_writes",
    "tests/tensorflow/test_tensorflow_training.py::test_fit_on_a_dict_takes_torchs_steps",
    "tests/training/test_budgets.py::test_a_killed_run_goes_on_exactly",
    "tests/training/test_recovery.py::test_a_spike_of_the_loss_sends_the_run_back",
    "tests/training/test_training_resume.py::test_every_kind_of_run_resumes_to_the_bit",
    "tests/training/test_training_step.py::test_a_model_learns",
)
"""Functions whose quickest case stays, however long it takes."""
COSTLY = (
    "tests/training/test_training_processes.py::test_processes_change_no_weight",
    "tests/training/test_training_resume.py::test_a_killed_and_resumed_run_is_the_uninterrupted_one",
    "tests/training/test_training_resume.py::test_nothing_is_left_lying_about",
)
"""Functions that are slow for their fixtures, which are not measured: their time falls to whichever test asks first."""
_LINE = re.compile(r"([0-9.]+)s call +(\S.*)")


def slow_cases() -> frozenset[str]:
    """Return ids of tests, and of functions all of whose cases are slow."""
    return frozenset(FILE.read_text(encoding="utf-8").splitlines())


def function_of(name: str) -> str:
    """Return the function of a test's id: what stands before its case."""
    return name.partition("[")[0]


def chosen(seconds: dict[str, float]) -> list[str]:
    """Return what to list, given how long each test takes."""
    functions = defaultdict[str, list[str]](list)
    for name in sorted(seconds, key=seconds.__getitem__):
        functions[function_of(name)].append(name)
    listed: list[str] = []
    for function, (first, *others) in sorted(functions.items()):
        slow = sorted(name for name in others if seconds[name] >= CASE_S)
        if function in COSTLY or (seconds[first] >= FUNCTION_S and function not in KEPT):
            listed.append(function)
        else:
            listed += slow
    return listed


def main() -> None:
    """Write the list."""
    lines = (_LINE.fullmatch(line.strip()) for path in sys.argv[1:] for line in Path(path).read_text().splitlines())
    seconds = {match[2].strip(): float(match[1]) for match in lines if match}
    FILE.write_text("".join(f"{name}\n" for name in chosen(seconds)), encoding="utf-8")


if __name__ == "__main__":
    main()
