"""Forms of requests and answers, as pure functions: JSON -> `Call` of `Request`s, `Answer`s -> JSON.

Each module has bodies (pydantic), `read`, `write`, and a `Stream` whose methods return the events of a streamed answer.
"""
