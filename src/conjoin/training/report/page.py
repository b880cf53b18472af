"""The report's page: its style, light and dark, and the bricks that its sections are made of."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1d20;--soft:#6a6e76;--line:#e4e5e8;
--s0:#2a6fdb;--s1:#d1632a;--s2:#1f9275;--s3:#9a55c7;--s4:#b58a00;--s5:#c43e6d;--ok:#1f9275}
@media (prefers-color-scheme:dark){:root{--bg:#15161a;--card:#1d1f24;--ink:#e8e9ec;--soft:#9a9fa9;--line:#31343b;
--s0:#6ea3f5;--s1:#f0925f;--s2:#52c4a4;--s3:#c490e8;--s4:#e0b93f;--s5:#ee7ba3;--ok:#52c4a4}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1200px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;margin:0 0 4px;letter-spacing:-.01em}h2{font-size:18px;margin:40px 0 12px}
p.sub{color:var(--soft);margin:0 0 24px}
.tiles,.charts{display:grid;gap:14px}.tiles{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.charts{grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr))}
.tile,figure,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;margin:0}
.tile b{display:block;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
figcaption{display:flex;flex-wrap:wrap;gap:4px 14px;margin-bottom:6px;font-size:14px}
svg{display:block;max-width:100%;height:auto}svg.heat{max-width:none}
.k{color:var(--soft);font-size:13px}.k i{display:inline-block;width:14px;height:3px;border-radius:2px;
margin:0 6px 3px 0}
.g{stroke:var(--line);stroke-width:1}.t{fill:var(--soft);font-size:11px;font-family:inherit}
.l{fill:none;stroke-width:1.8;stroke-linejoin:round}circle{stroke:var(--card);stroke-width:1.2}
.h{fill:var(--s0)}.f{fill:none;stroke:var(--line)}
.card{margin-bottom:14px;overflow-x:auto}
table{border-collapse:collapse;width:100%}td{padding:4px 12px 4px 0;vertical-align:top;overflow-wrap:anywhere}
td:first-child{color:var(--soft);white-space:nowrap;width:1%;font-variant-numeric:tabular-nums}
tr.rule td{border-top:1px solid var(--line)}td.ok::after{content:" ✓";color:var(--ok)}
details summary{color:var(--soft);cursor:pointer;margin-top:10px}
""" + "\n".join(
    f"path.s{n}{{stroke:var(--s{n})}}circle.s{n}{{fill:var(--s{n})}}i.s{n}{{background:var(--s{n})}}" for n in range(6)
)
"""Colours of a series are told apart by hue and by lightness, on both grounds."""


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """The whole document."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>{"".join(sections)}</main></body></html>\n'
    )


def section(title: str, inner: str) -> str:
    """A heading and what stands under it; nothing where there is nothing."""
    return f"<section><h2>{escape(title)}</h2>{inner}</section>" if inner else ""


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """Figures that stand for the run."""
    inner = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in facts
    )
    return f'<div class="tiles">{inner}</div>'


def sample_card(source: str, target: str, predictions: Sequence[tuple[int, str]]) -> str:
    """A pair, and what the model wrote for it as training went on."""
    rows = [_row("source", source), _row("target", target)]
    rows += [
        _row(f"step {step:,}", text, rule=not place, ok=text.strip() == target.strip())
        for place, (step, text) in enumerate(predictions)
    ]
    return f'<div class="card"><table>{"".join(rows)}</table></div>'


def _row(name: str, text: str, *, rule: bool = False, ok: bool = False) -> str:
    """`dir=auto` lets right-to-left scripts run as they should."""
    shown = escape(text) if text.strip() else "<i>(empty)</i>"
    return (
        f"<tr{' class=rule' if rule else ''}><td>{escape(name)}</td>"
        f'<td dir="auto"{" class=ok" if ok else ""}>{shown}</td></tr>'
    )
