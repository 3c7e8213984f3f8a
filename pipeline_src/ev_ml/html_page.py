"""The one page style of reports: self-contained, dark and light by the reader's preference, printable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

CSS = """
:root{color-scheme:light dark;--bg:#fbfbfd;--card:#fff;--ink:#17202c;--soft:#5a6675;--line:#dde3ea;
--track:#eef1f5; --accent:#1f5fbf;--other:#9aa7b5;--good:#1a7f43;--bad:#b3261e;--warn:#8a5a00;
--s1:#b4541a;--s2:#1a7f43;--s3:#7a3fb0} @media (prefers-color-scheme:dark){:root{--bg:#11161d;
--card:#19202a;--ink:#e6ebf1;--soft:#9dabba;--line:#2d3744; --track:#232c38;--accent:#6aa5f5;
--other:#5f6d7d;--good:#5ec98a;--bad:#ff8a80;--warn:#e5b454;--s1:#f0a06a;--s2:#5ec98a; --s3:#c79bf0}} *{
box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif} main{max-width:1180px;margin:0 auto;
padding:24px 16px 48px}h1{font-size:1.3rem;margin:0 0 4px;overflow-wrap:anywhere} h2{font-size:1.05rem;
margin:32px 0 10px;padding-top:14px;border-top:1px solid var(--line)}p{margin:6px 0;max-width:75ch;
overflow-wrap:anywhere} .soft,small{color:var(--soft)}.decision{border-left:5px solid var(--other);
background:var(--card);padding:12px 16px; margin:16px 0;border-radius:0 6px 6px 0}.decision b{
font-size:1.2rem}.good{border-color:var(--good)}.good b{color:var(--good)} .bad{border-color:var(--bad)}
.bad b{color:var(--bad)}.warn{border-color:var(--warn)}.warn b{color:var(--warn)} .tiles{display:grid;
grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px}.tile{background:var(--card);
border:1px solid var(--line);border-radius:6px;padding:10px 12px}.tile span{display:block;
color:var(--soft);font-size:.82rem} .tile b{font-size:1.25rem;font-variant-numeric:tabular-nums}.grid{
display:grid;gap:14px; grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));
align-items:start} figure{margin:0;background:var(--card);border:1px solid var(--line);
border-radius:6px;padding:10px 12px;min-width:0; break-inside:avoid}figure.wide{grid-column:1/-1}
figcaption{font-size:.88rem;font-weight:600;margin-bottom:6px; overflow-wrap:anywhere}svg{display:block;
width:100%;max-width:460px;height:auto;margin:0 auto} svg text{font:12px system-ui,sans-serif;
fill:var(--ink)}svg .tick,svg .axis{fill:var(--soft)}svg .grid{stroke:var(--line); stroke-width:1;
fill:none}.line{fill:none;stroke:var(--accent);stroke-width:2}.line.s1{stroke:var(--s1)} .line.s2{
stroke:var(--s2)}.line.s3{stroke:var(--s3)}.guide{fill:none;stroke:var(--other);stroke-width:1;
stroke-dasharray:4 4} .track{fill:var(--track)}.bar{fill:var(--accent)}.ref{fill:var(--other)}.whisker{
stroke:var(--ink);stroke-width:1.5;fill:none} .scroll{overflow-x:auto}table{border-collapse:collapse;
width:100%;font-size:.88rem;font-variant-numeric:tabular-nums} th,td{padding:5px 9px;text-align:left;
border-bottom:1px solid var(--line)}.scroll{margin-top:10px}td:last-child:not(.n){max-width:42ch;
overflow-wrap:break-word}.matrix{min-width:600px}thead th{color:var(--soft); font-weight:600}td.n,th.n{
text-align:right;white-space:nowrap}.matrix td,.matrix thead th{text-align:center}.matrix td small{
display:block;font-size:.72rem;color:inherit;opacity:.8}.matrix .hit{
background: color-mix(in srgb,var(--accent) calc(var(--share)*100%),var(--card))}.matrix .miss{
background: color-mix(in srgb,var(--bad) calc(var(--share)*100%),var(--card))}.matrix .strong{
color:var(--card)} .matrix .corner{color:var(--soft);font-size:.78rem}.legend{list-style:none;
display:flex;flex-wrap:wrap;gap:4px 14px;margin:8px 0 10px; padding:0;font-size:.8rem}.legend li:before{
content:"";display:inline-block;width:14px;height:3px;margin-right:6px; vertical-align:middle;
background:var(--accent)}.legend .s1:before{background:var(--s1)}.legend .s2:before{
background:var(--s2)} .legend .s3:before{background:var(--s3)}.legend .ref:before{
background:var(--other)}code{font-size:.86em;overflow-wrap:anywhere} dl{display:grid;
grid-template-columns:minmax(110px,max-content) 1fr;gap:4px 16px;margin:0}dt{color:var(--soft)} dd{
margin:0;overflow-wrap:anywhere} @media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#000;
--soft:#444;--line:#bbb;--track:#eee;--accent:#1f5fbf; --other:#999;--good:#1a7f43;--bad:#b3261e;
--warn:#8a5a00}body{font-size:11pt}main{max-width:none;padding:0}.scroll{overflow:visible}
.matrix{min-width:0}table{font-size:.7rem} th,td{padding:3px 4px}*{print-color-adjust:exact;
-webkit-print-color-adjust:exact}h2{break-after:avoid}}
"""


_HIDDEN = (
    *range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F,
    *range(0x202A, 0x202F), *range(0x2066, 0x206A),
)  # fmt: skip
UNSEEN = dict.fromkeys(_HIDDEN, "\N{REPLACEMENT CHARACTER}")
"""Control characters: those that turn the direction of text would turn our own words beside a foreign value too."""


def page(title: str, body: str) -> str:
    """Return a whole HTML document. `body` is HTML; `title` is text."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>{body}</main></body></html>\n"
    ).translate(UNSEEN)


def section(title: str, body: str) -> str:
    """Return a titled section, or nothing when it has no body."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def tiles(values: Mapping[str, str]) -> str:
    """Return the few figures that matter as tiles."""
    cells = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b></div>' for name, value in values.items()
    )
    return f'<div class="tiles">{cells}</div>'


def facts(values: Mapping[str, object]) -> str:
    """Return names and values as a list; nothing for those that are None."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in values.items() if value is not None
    )
    return f"<dl>{rows}</dl>" if rows else ""


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: frozenset[int] = frozenset()) -> str:
    """Return a table; the columns in `numbers` are set to the right."""

    def cell(tag: str, index: int, value: object) -> str:
        style = ' class="n"' if index in numbers else ""
        return f"<{tag}{style}>{escape(str(value))}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(heads))
    body = "".join("<tr>" + "".join(cell("td", i, v) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
