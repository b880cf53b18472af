"""The list of tests that `make test` leaves out for their time."""

import ast
from pathlib import Path

from slow_cases import CASE_S, COSTLY, FUNCTION_S, KEPT, chosen, function_of, slow_cases

ROOT = Path(__file__).parents[2]


def test_what_is_listed_exists() -> None:
    defined: dict[str, set[str]] = {}
    for name in (*slow_cases(), *KEPT, *COSTLY):
        file, _, function = function_of(name).partition("::")
        if file not in defined:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            defined[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in defined[file], name
    assert not slow_cases() & {*KEPT}


def test_the_quickest_case_of_a_function_stays_unless_it_is_slow_itself() -> None:
    slow, kept = FUNCTION_S + 1, KEPT[0]
    seconds = {"a::f[1]": 0.0, "a::f[2]": CASE_S, "a::f[3]": slow, "a::g[1]": slow, "a::g[2]": slow, "a::h": slow}
    assert chosen(seconds) == ["a::f[2]", "a::f[3]", "a::g", "a::h"]
    assert chosen({f"{kept}[1]": slow, f"{kept}[2]": 2 * slow}) == [f"{kept}[2]"]
