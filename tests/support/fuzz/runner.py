"""Runs cases, each in a process of its own: whatever happens to that process is an outcome, never the runner's end."""

import json
import os
import random
import resource
import select
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conjoin.errors import ConjoinError
from fuzz.guard import guarded

SECONDS = 10.0
"""What a case may take; one that takes longer is run once more with three times that, since machines are shared."""

MEMORY_BYTES = 2 << 30
"""Address space that a case may take beside what the runner has."""

GOOD = ("works", "refused")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file.

    Args:
        build: Writes a good folder.
        mutate: Damages a copy of it.
        use: Reads the folder and works with what it holds; an AssertionError says that it works wrongly.
    """

    name: str
    build: Callable[[Path], None]
    mutate: Callable[[Path, random.Random], None]
    use: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended.

    Args:
        word: "works", "refused" (a ConjoinError), or what must not be: "other", "wrong", "hang", "memory", "crash",
            "escape". "unstaged" is a failure of the mutator, which says nothing about conjoin.
        text: What to look at.
        place: The innermost line of conjoin's, by which failures of one root are told from others.
    """

    word: str
    text: str = ""
    place: str = ""

    @property
    def is_failure(self) -> bool:
        return self.word not in (*GOOD, "unstaged")


@dataclass(slots=True)
class Tally:
    """Outcomes of one kind."""

    counts: Counter[str] = field(default_factory=Counter[str])
    failures: list[tuple[int, Outcome]] = field(default_factory=list[tuple[int, Outcome]])

    def add(self, case: int, outcome: Outcome) -> None:
        self.counts[outcome.word] += 1
        if outcome.is_failure:
            self.failures.append((case, outcome))


class Bench:
    """A kind with its good folder, ready to run cases.

    The good folder is used once here, so that what is imported, compiled and measured at first is so in every case.
    """

    def __init__(self, kind: Kind, work: Path) -> None:
        self.kind = kind
        self.base, self.scratch = work / "good", work / "case"
        self.base.mkdir(parents=True)
        kind.build(self.base)
        shutil.copytree(self.base, self.scratch)
        kind.use(self.scratch)
        shutil.rmtree(self.scratch)

    def run(self, seed: int, case: int) -> Outcome:
        """Run one case."""
        outcome = self._once(seed, case, SECONDS)
        return self._once(seed, case, 3 * SECONDS) if outcome.word == "hang" else outcome

    def stage(self, seed: int, case: int) -> Path:
        """Make the damaged folder of a case."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.base, self.scratch)
        self.kind.mutate(self.scratch, random.Random(f"{self.kind.name} {seed} {case}"))
        return self.scratch

    def _once(self, seed: int, case: int, seconds: float) -> Outcome:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._child(seed, case, writing)
        os.close(writing)
        try:
            return _watched(child, reading, seconds)
        finally:
            os.close(reading)
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _child(self, seed: int, case: int, pipe: int) -> None:
        """Run a case and tell its outcome; never returns."""
        try:
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            outcome = self._outcome(seed, case)
            os.write(pipe, json.dumps([outcome.word, outcome.text[:4000], outcome.place]).encode())
        finally:
            os._exit(0)

    def _outcome(self, seed: int, case: int) -> Outcome:
        try:
            folder = self.stage(seed, case)
        except Exception as error:
            return Outcome("unstaged", f"{type(error).__name__}: {error}", _place(error, "fuzz"))
        limit_memory()
        escapes: list[str] = []
        outcome = Outcome("works")
        try:
            with guarded(folder, escapes):
                self.kind.use(folder)
        except ConjoinError as error:
            outcome = _refusal(error)
        except BaseException as error:
            outcome = Outcome(_word(error), "".join(traceback.format_exception(error))[-4000:], _place(error))
        return Outcome("escape", escapes[0], outcome.place) if escapes else outcome


def _watched(child: int, pipe: int, seconds: float) -> Outcome:
    """Wait for a case to end, and end it where it takes too long."""
    end, told = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
        part = os.read(pipe, 1 << 16)
        if not part:
            break
        told += part
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return Outcome("hang", f"more than {seconds:.0f} s")
    _, status = os.waitpid(child, 0)
    if not told or os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        return Outcome("crash", f"exit {code}" if code >= 0 else signal.Signals(-code).name)
    return Outcome(*json.loads(told))


def limit_memory() -> None:
    """Give this process so much address space as it has, and MEMORY_BYTES more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _word(error: BaseException) -> str:
    told = ("can't allocate memory", "Unable to allocate")
    if isinstance(error, MemoryError) or any(words in str(error) for words in told):
        return "memory"
    return "wrong" if isinstance(error, AssertionError) else "other"


def _refusal(error: ConjoinError) -> Outcome:
    """A clear error, unless it would steer a terminal or is too long to be read."""
    text = str(error)
    if odd := [sign for sign in text if (ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160]:
        return Outcome("other", f"control characters {odd[:5]} in {type(error).__name__}: {text!r}", _place(error))
    if len(text) > 20_000:
        return Outcome("other", f"an error text of {len(text)} characters: {text[:200]!r}", _place(error))
    return Outcome("refused", f"{type(error).__name__}: {text}", _place(error))


def _place(error: BaseException, room: str = "conjoin") -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"/{room}/" in frame.filename]
    if not frames:
        return type(error).__name__
    file = frames[-1].filename.rpartition(f"/{room}/")[2]
    return f"{file}:{frames[-1].lineno} {type(error).__name__}"


def cases(bench: Bench, seed: int, numbers: Iterator[int], until: float) -> Tally:
    """Run cases until there are no more numbers, or no more time."""
    tally = Tally()
    for case in numbers:
        if time.monotonic() > until:
            break
        tally.add(case, bench.run(seed, case))
    return tally
