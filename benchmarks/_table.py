"""Format lines of JSON as a table, for the screen and for a file of results."""

import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from _rows import MEDIANS, Row, Speed, Step
from _speed import NOISE

Results = list[tuple[Row, dict[str, Any]]]
"""Rows, and the line of JSON of each."""

HEAD = ("row", "what", "against", "ratio", "quartiles", "bar", "share of floor", "ms/step", "tokens", "verdict")

LEGEND = f"""\
ratio: the peer's time / our time, median of per-round ratios; above 1, we are faster.
share of floor: the least time of a decoding step (bytes read / bandwidth, measured in each round) / our time; then with
the encoder.
tokens: share equal to those of transformers in float32; forced: each next token, given the same tokens before it.
verdict: reached; short; noisy (a contender against itself spread over {NOISE:.0%}); wrong tokens; or why there is none.
"""


def verdict(row: Row, record: dict[str, Any]) -> str:
    """Return whether the figure reaches its target; if there is no valid figure, why."""
    if "absent" in record:
        return f"none: {record['absent']}"
    if not record.get("tokens", {}).get("right", True):
        return "wrong tokens"
    if record.get("spread", 0.0) > NOISE:
        return f"noisy ({record['spread']:.0%})"
    short = [name for name, missed in _missed(row, record).items() if missed]
    return "short: " + ", ".join(short) if short else "reached"


def bars(row: Row) -> str:
    """Return the targets of a row."""
    return f"{row.step_us:.0f} us, {row.call_ms:g} ms" if isinstance(row, Step) else f"{row.bar}x"


def _missed(row: Row, record: dict[str, Any]) -> dict[str, bool]:
    if isinstance(row, Step):
        ours = "conjoin fp32"
        return {"step": record["step_us"][ours] > row.step_us, "call": record["call_ms"][ours] > row.call_ms}
    floor_bar = row.floor_bar if isinstance(row, Speed) else None
    return {
        "ratio": record["ratio"] < row.bar,
        "floor": floor_bar is not None and record["floor_share"] < floor_bar,
    }


def table(rows: Results) -> list[tuple[str, ...]]:
    """Return the cells of the table, the header first."""
    return [HEAD, *(_cells(row, record) for row, record in rows)]


def _cells(row: Row, record: dict[str, Any]) -> tuple[str, ...]:
    if "absent" in record:
        return (row.name, row.work, "", "", "", bars(row), "", "", "", verdict(row, record))
    return (
        row.name,
        row.work,
        record["best_peer"],
        f"{record['ratio']:.2f}x",
        f"{record['low']:.2f} - {record['high']:.2f}",
        bars(row),
        _share(row, record),
        _steps(record),
        _tokens(record),
        verdict(row, record),
    )


def _share(row: Row, record: dict[str, Any]) -> str:
    if "floor_share" not in record or not isinstance(row, Speed):
        return ""
    return f"{record['floor_share']:.0%}, {record['floor_share_with_encoder']:.0%} (bar {row.floor_bar:.0%})"


def _steps(record: dict[str, Any]) -> str:
    steps: dict[str, float] = record.get("ms_per_step", {})
    calls = [f"one token by {name} {ms:.2f}" for name, ms in record.get("call_ms", {}).items()]
    return ", ".join([f"{name} {ms:.2f}" for name, ms in steps.items() if "again" not in name] + calls)


def _tokens(record: dict[str, Any]) -> str:
    tokens = record.get("tokens")
    if not tokens:
        return ""
    equal = ", ".join(f"{name} {share:.0%}" for name, share in tokens["equal"].items())
    extras = [f"forced {tokens['forced']:.1%}"] if "forced" in tokens else []
    extras += [f"widest tie {tokens['widest_tie']:.1e}"] if "widest_tie" in tokens else []
    return "; ".join((equal, *extras))


def medians(rows: Results) -> list[dict[str, Any]]:
    """Return a line for each group of rows that has a bar for its median; rows without a valid figure do not count."""
    lines: list[dict[str, Any]] = []
    for group, bar in MEDIANS.items():
        members = [(row, record) for row, record in rows if isinstance(row, Speed) and row.group == group]
        ratios = [record["ratio"] for _, record in members if record["verdict"] in ("reached", "short: ratio")]
        if members:
            figures = {"median": round(median(ratios), 3), "least": min(ratios)} if ratios else {}
            reached = bool(ratios) and median(ratios) >= bar
            state = {"rows": len(members), "counted": len(ratios), "verdict": "reached" if reached else "short"}
            lines.append({"group": group, "bar": bar, **figures, **state})
    return lines


def aligned(cells: list[tuple[str, ...]]) -> str:
    """Return the shorter cells as an aligned table for the screen."""
    narrow = [(c[0], c[3], c[4], c[5], c[6], c[2], c[9]) for c in cells]
    widths = [max(len(line[i]) for line in narrow) for i in range(len(narrow[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in narrow
    )


def markdown(cells: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    ruled = [cells[0], ("---",) * len(HEAD), *cells[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def where_time_goes(rows: Results) -> str:
    """List the phases of each row."""
    lines: list[str] = []
    for row, record in rows:
        spent: dict[str, float] = record.get("profile", {})
        shares = ", ".join(f"{name} {share:.0%}" for name, share in spent.items())
        lines += [f"- {row.name}: {shares}"] if spent else []
    return "\n".join(lines)


def write_results(path: Path, command: str, first: dict[str, Any], rows: Results) -> None:
    """Write a page: machine, limits, command, table, profiles, and the lines as printed."""
    groups = [json.dumps(line, sort_keys=True) for line in medians(rows)]
    raw = "\n".join(json.dumps(line, sort_keys=True) for line in (first, *(record for _, record in rows)))
    parts = (
        f"# CPU speed, {datetime.now(UTC):%Y-%m-%d}",
        _circumstances(first),
        f"```\n{command}\n```",
        markdown(table(rows)),
        LEGEND.rstrip(),
        *(["Medians of groups:\n\n```\n" + "\n".join(groups) + "\n```"] if groups else []),
        "Profile of conjoin (`model.profile()`), as shares of one run:\n\n" + where_time_goes(rows),
        f"The lines as printed:\n\n```\n{raw}\n```",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _circumstances(first: dict[str, Any]) -> str:
    machine, floors = first["machine"], first["floors"]
    rates = ", ".join(f"{kind} {rate or 'not measured'}" for kind, rate in floors["gflops"].items())
    libraries = [name for name in ("python", "torch", "transformers", "ctranslate2") if name in machine]
    kernels = f"on {first['kernels']}" if first["kernels"] else "without its compiled kernels"
    return (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads. Versions: "
        + ", ".join(f"{name} {machine[name]}" for name in libraries)
        + f"; conjoin at {first['commit'] or 'no commit'}, {kernels}. {first['rounds']} rounds.\n"
        f"Measured floors: {floors['read_gb_s']} GB/s read; matrix products in GFLOP/s: {rates}."
    )
