"""The page of `conjoin compare`: scores, differences, and the texts that differ, side by side. One file, no scripts."""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from html import escape

from conjoin.evaluation.comparison import Difference, SideBySide, Versus
from conjoin.evaluation.resampling import Estimate, Method

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1d20;--soft:#6a6e76;--line:#e4e5e8;--gone:#fbdcd6;
--new:#d3efdc;--best:#1f7a55}
@media (prefers-color-scheme:dark){:root{--bg:#15161a;--card:#1d1f24;--ink:#e8e9ec;--soft:#9a9fa9;--line:#31343b;
--gone:#5b2a24;--new:#1d4a33;--best:#5fcf9f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1200px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:40px 0 12px}p{color:var(--soft);margin:0 0 16px}
.card,.box{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px;margin:0 0 14px;
overflow-x:auto}
table{border-collapse:collapse}th{text-align:left;font-weight:600}th,td{padding:4px 16px 4px 0;vertical-align:top}
.box td,.box th{font-variant-numeric:tabular-nums;white-space:nowrap}
.card table{width:100%}.card td{overflow-wrap:anywhere;white-space:pre-wrap}
.card td:first-child,.card td:last-child{color:var(--soft);width:1%;white-space:nowrap}
.card td:last-child{text-align:right;padding-right:0;font-variant-numeric:tabular-nums}
tr.best td:first-child,tr.best td:last-child{color:var(--best);font-weight:600}
del{background:var(--gone);text-decoration:none}ins{background:var(--new);text-decoration:none}
nav a{margin-right:16px}
"""
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def side_by_side(
    runs: SideBySide, *, title: str, metric: str | None = None, method: Method = "bootstrap", limit: int = 500
) -> str:
    """Return a page that needs no other file: every text is escaped, and nothing in it can run.

    Texts that differ are grouped by the run that scores best, those with the largest difference first.

    Args:
        title: What was compared, such as the name of the data.
        metric: Metric that scores single texts; see `SideBySide.sort_metric`.
        limit: Largest number of texts of a group.
    """
    name, found = runs.sort_metric(metric), runs.differences(metric)
    groups: list[tuple[str, list[Difference]]] = [
        (f"{run} is better", [each for each in found if each.best == number]) for number, run in enumerate(runs.names)
    ]
    groups.append(("Equal scores", [each for each in found if each.best is None]))
    groups = [(heading, members) for heading, members in groups if members]
    pairs = len(runs.evaluations[0].references)
    sections = [
        _scores(runs),
        *(_versus(each, method) for each in runs.versus(method)),
        "<nav>" + "".join(f'<a href="#g{n}">{escape(h)}: {len(m):,}</a>' for n, (h, m) in enumerate(groups)) + "</nav>",
        *(
            _group(number, heading, members, runs.names, name, limit)
            for number, (heading, members) in enumerate(groups)
        ),
    ]
    subtitle = f"{pairs:,} pairs; the texts differ in {len(found):,}. Scores of single texts: {name}."
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>{''.join(sections)}</main></body></html>\n"
    )


def _scores(runs: SideBySide) -> str:
    estimates = [{each.name: each for each in result.estimates()} for result in runs.evaluations]
    names = list(dict.fromkeys(name for each in estimates for name in each))
    head = "".join(f"<th>{escape(name)}</th>" for name in ("metric", *runs.names))
    body = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(_estimate(each.get(name)) for each in estimates)}</tr>" for name in names
    )
    return f'<h2>Scores, with 95 % intervals</h2><div class="box"><table><tr>{head}</tr>{body}</table></div>'


def _estimate(value: Estimate | None) -> str:
    return "<td>-</td>" if value is None else f"<td>{value.value:.2f} ({value.low:.2f} to {value.high:.2f})</td>"


def _versus(versus: Versus, method: Method) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("metric", "difference", "95 % interval", "p", "better"))
    names = {"first": versus.first, "second": versus.second}
    body = "".join(
        f"<tr><td>{escape(row.name)}</td><td>{row.difference:+.3f}</td><td>{row.low:+.3f} to {row.high:+.3f}</td>"
        f"<td>{row.p_value:.3f}</td><td>{escape(names[row.better] if row.better else 'no difference')}</td></tr>"
        for row in versus.metrics
    )
    title = escape(f"{versus.second} - {versus.first} ({'paired bootstrap' if method == 'bootstrap' else method})")
    return f'<h2>{title}</h2><div class="box"><table><tr>{head}</tr>{body}</table></div>'


def _group(
    number: int, heading: str, members: Sequence[Difference], names: Sequence[str], metric: str, limit: int
) -> str:
    cut = f"<p>The first {limit:,} of {len(members):,}.</p>" if len(members) > limit else ""
    cards = "".join(_card(each, names, metric) for each in members[:limit])
    return f'<section id="g{number}"><h2>{escape(heading)}: {len(members):,}</h2>{cut}{cards}</section>'


def _card(each: Difference, names: Sequence[str], metric: str) -> str:
    """Return one pair: words of the first text that another lacks are marked, and words that it has instead."""
    first = each.texts[0]
    rows = [_row(f"{each.index + 1:,}", escape(each.source)), _row("reference", escape(each.reference))]
    marked = [marked_words(first, next((t for t in each.texts[1:] if t != first), first), "del")]
    marked += [marked_words(text, first, "ins") for text in each.texts[1:]]
    rows += [
        _row(name, text, f"{score:.1f}", best=each.best == run)
        for run, (name, text, score) in enumerate(zip(names, marked, each.scores, strict=True))
    ]
    return f'<div class="card" title="{escape(metric)}"><table>{"".join(rows)}</table></div>'


def _row(name: str, text: str, score: str = "", *, best: bool = False) -> str:
    """`dir=auto` lets right-to-left scripts run as they should."""
    shown = text if text.strip() else "<i>(empty)</i>"
    return f'<tr{" class=best" if best else ""}><td>{escape(name)}</td><td dir="auto">{shown}</td><td>{score}</td></tr>'


def marked_words(text: str, other: str, mark: str) -> str:
    """Return a text as HTML, with an element around the words that another text lacks at this place."""
    words, others = _WORD.findall(text), _WORD.findall(other)
    matcher = SequenceMatcher(None, others, words, autojunk=False)
    return "".join(
        f"<{mark}>{escape(part)}</{mark}>" if tag in ("replace", "insert") and part.strip() else escape(part)
        for tag, part in _parts(matcher, words)
    )


def _parts(matcher: "SequenceMatcher[str]", words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for tag, _, _, start, end in matcher.get_opcodes():
        yield tag, "".join(words[start:end])
