"""What our C++ sources must not say, since a compiler gets it wrong."""

import re
from pathlib import Path

import conjoin.native

FOLDER = Path(conjoin.native.__file__).parent
# GCC 12 with -fsanitize=undefined compiles (c ? a : b)[i / j] to c ? a[i / j] : b[i / j], saves i and j in the first
# branch only, and reads b at a wrong index; likewise with %, << and >>.
COMMENT = re.compile("//.*")
CHOICE_INDEXED_BY_QUOTIENT = re.compile(r"\([^()?;]*\?[^?;]*:[^;]*?\)\[[^\]\n]*(?:/|%|<<|>>)[^\]\n]*\]")


def test_a_choice_of_arrays_has_a_name_before_a_quotient_indexes_it() -> None:
    sources = {file.name: COMMENT.sub("", file.read_text()) for file in (*FOLDER.glob("*.h"), *FOLDER.glob("*.cpp"))}
    faults = {name: CHOICE_INDEXED_BY_QUOTIENT.findall(text) for name, text in sources.items()}
    assert sources and not any(faults.values()), faults
