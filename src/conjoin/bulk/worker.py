"""The program of a worker process: it loads a model once, and generates for the sources that it is sent."""

import json
import os
import signal
import sys
from typing import IO, Any

from conjoin.bulk.messages import answer_of, error_of
from conjoin.bulk.spec import WorkerSpec
from conjoin.bulk.starting import start_model


def main() -> None:
    """Answer messages from stdin until it ends, as it does when the parent ends, however that comes about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that nothing else that is printed gets between answers
    lines = sys.stdin.buffer
    try:
        model = start_model(WorkerSpec.from_dict(json.loads(lines.readline())))
    except Exception as error:
        _send(answers, error_of(error))
        return
    _send(answers, {"limit": model.limit})
    while line := lines.readline():
        _send(answers, answer_of(model, json.loads(line)["texts"]))


def _send(answers: IO[bytes], message: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()
    except BrokenPipeError:  # the parent ended
        os._exit(1)
