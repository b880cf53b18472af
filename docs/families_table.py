"""Write the table of docs/families.md: what `conjoin families` prints, made by `make fix`."""

from pathlib import Path

from conjoin.cli.families import COLUMNS, rows

PAGE = Path(__file__).with_name("families.md")
BEGIN, END = "<!-- written by `make fix` -->\n", "<!-- end of the table -->\n"


def table() -> str:
    """Return the table in Markdown, with model types and hub ids as code."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_marked, rows())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written() -> str:
    """Return the page with the table in its place."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def _marked(row: tuple[str, ...]) -> tuple[str, ...]:
    name, *ways, known = row
    return f"`{name}`", *ways, ", ".join(f"`{hub_id}`" for hub_id in known.split(", ") if hub_id)


if __name__ == "__main__":
    PAGE.write_text(written())
