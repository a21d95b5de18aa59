"""The gallery as one page that needs no other file, and as Markdown."""

from __future__ import annotations

import base64
import html as markup
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lntrain.experiments.gallery.declared import VERDICTS
from lntrain.experiments.gallery.entries import ENTRIES
from lntrain.experiments.gallery.run import cell, claim_of, seen, tabled
from lntrain.runs.folders import summary_of

COLOURS = {
    "reproduced": "#2b7a4b",
    "after": "#2563a8",
    "differs": "#b06a00",
    "unexpected": "#b3261e",
    "error": "#b3261e",
}
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 860px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .2rem; }
img { width: 100%; height: auto; border: 1px solid #e3e6ea; border-radius: 6px; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; } td, th { text-align: left; padding: .2rem .5rem;
border-bottom: 1px solid #eceff2; } code, pre { background: #f4f6f8; border-radius: 4px; padding: .1rem .3rem; }
.verdict { color: #fff; border-radius: 4px; padding: .05rem .5rem; font-size: .85rem; } .small { font-size: .85rem;
color: #555; } details { margin: .4rem 0; } .wide { overflow-x: auto; }
"""


ANSWERED = {  # works around the paper that have no row, and why
    "Boner": "its label noise is static, in the data of trees and linear models: no step draws it anew",
    "Burger, Rossi": "kinetic equations: there is no network to train",
    "Lyu, Zhu": "its parametrisation and settings were not found in what is public",
    "Vardi": "a survey: the works it names that bear on label noise have rows of their own",
    "Battash, Lindenbaum": "its noise is heavy-tailed and of gradients, not of labels: no prediction here bears on it",
}


@dataclass(frozen=True)
class Row:
    """An entry's declaration, and what its run's folder says."""

    name: str
    section: Mapping[str, Any]
    summary: Mapping[str, Any]
    folder: Path

    @property
    def verdict(self) -> str:
        """One of VERDICTS, or "error" where the run did not end."""
        return str(self.summary.get("verdict") or "error")

    @property
    def seconds(self) -> float:
        """Of its run; 0 where it did not end."""
        return float(self.summary.get("seconds") or 0)

    @property
    def claim(self) -> str:
        """In one line."""
        return claim_of(ENTRIES[self.section["entry"]])

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"lntrain experiment={self.name} seed={self.summary.get('seed', 0)}"

    @property
    def picture(self) -> Path | None:
        """Its last figure by name."""
        found = sorted((self.folder / "figures").glob("*.png"))
        return found[-1] if found else None

    @property
    def reason(self) -> str:
        """Why it differs, or why there is no verdict; and where another seed may flip it."""
        why = self.section.get("differs") or self.summary.get("reason")
        return " ".join(str(text) for text in (why, self.section.get("may")) if text)


def rows_in(folder: Path, sections: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The entries that were run in a folder; sections: experiment -> its declaration."""
    places = {name: folder / f"experiment={name}" for name in sections}
    return [Row(name, sections[name], summary_of(at), at) for name, at in places.items() if at.is_dir()]


def order(entry: str) -> int:
    """The gallery's order is that of ENTRIES."""
    return list(ENTRIES).index(entry) if entry in ENTRIES else len(ENTRIES)


def settings(values: Mapping[str, Any]) -> str:
    """Settings in one line.

    >>> settings({"n": 40, "lr": 0.01})
    'n=40, lr=0.01'
    """
    return ", ".join(f"{key}={value}" for key, value in values.items())


def stated(row: Row) -> str:
    """The settings of the source, and where they were found."""
    return f"{settings(row.section['stated']) or 'none'} (from: {row.section['found']})"


def html(rows: Sequence[Row], seed: int) -> str:
    """The page."""
    words = "".join(f"<li><b>{verdict}</b>: {meaning}</li>" for verdict, meaning in VERDICTS.items())
    head = f"<h1>The gallery</h1><p>{len(rows)} works around label noise, seed {seed}.</p><ul class=small>{words}</ul>"
    index = "".join(f"<tr><td><a href='#{r.name}'>{r.name}</a></td><td>{markup.escape(r.claim)}</td>"
                    f"<td>{_badge(r)}</td></tr>" for r in rows)  # fmt: skip
    body = head + f"<div class=wide><table>{index}</table></div>" + "".join(_section(row) for row in rows)
    why = "".join(f"<li>{markup.escape(work)}: {markup.escape(reason)}.</li>" for work, reason in ANSWERED.items())
    body += f"<h2>Answered, not run</h2><ul class=small>{why}</ul>"
    title = "<!doctype html><html lang=en><meta charset=utf-8><title>lntrain: the gallery</title>"
    return f"{title}<meta name=viewport content='width=device-width'><style>{STYLE}</style>{body}</html>\n"


def _badge(row: Row) -> str:
    return f"<span class=verdict style='background:{COLOURS[row.verdict]}'>{row.verdict}</span>"


def _section(row: Row) -> str:
    image = ""
    if row.picture is not None:
        encoded = base64.b64encode(row.picture.read_bytes()).decode()
        image = f"<img alt='{markup.escape(row.claim, quote=True)}' src='data:image/png;base64,{encoded}'>"
    checks = "".join(
        f"<tr><td>{markup.escape(c['name'])}</td><td>{markup.escape(c['rule'])}</td><td>{markup.escape(seen(c))}</td>"
        f"<td>{c['verdict']}</td></tr>" for c in row.summary.get("checks", ())
    )  # fmt: skip
    reason = f"<p>{markup.escape(row.reason)}</p>" if row.reason else ""
    count = f"{len(row.summary.get('checks', ()))} checks, {row.seconds:.0f} s"
    return (
        f"<h2 id='{row.name}'>{row.name} {_badge(row)}</h2><p>{markup.escape(row.claim)}</p>{image}{reason}"
        f"<p class=small>{markup.escape(str(row.section['source']))}. Stated: {markup.escape(stated(row))}. "
        f"Used: {markup.escape(settings(row.section['used']))}.</p>"
        f"<details><summary>{count}</summary><div class=wide><table>{checks}</table></div></details>"
        f"<p><code>{markup.escape(row.command)}</code></p>"
    )


def markdown(rows: Sequence[Row], seed: int, pictures: Mapping[str, str] | None = None) -> str:
    """The same in Markdown; pictures: name -> path, the runs' own unless given."""
    lines = [f"# The gallery\n\n{len(rows)} works around label noise, seed {seed}; `lntrain-gallery` repeats it.\n"]
    lines += [f"- **{verdict}**: {meaning}" for verdict, meaning in VERDICTS.items()]
    lines += ["", "| entry | claim | verdict | seconds |", "|---|---|---|---|"]
    lines += [f"| [{r.name}](#{r.name}) | {cell(r.claim)} | {r.verdict} | {r.seconds:.0f} |" for r in rows]
    for row in rows:
        own = None if row.picture is None else f"{row.folder.name}/figures/{row.picture.name}"
        shown = own if pictures is None else pictures.get(row.name)
        lines += ["", f"## {row.name}", "", f"{row.claim} **{row.verdict}**", ""]
        lines += [f"![{row.claim}]({shown})", ""] if shown else []
        lines += [f"{row.reason}", ""] if row.reason else []
        lines += [f"Source: {row.section['source']}.", f"Stated: {stated(row)}.",
                  f"Used: {settings(row.section['used'])}.", "", tabled(row.summary.get("checks", ())), "",
                  f"`{row.command}`"]  # fmt: skip
    lines += ["", "## Answered, not run", "", *(f"- {work}: {reason}." for work, reason in ANSWERED.items())]
    return "\n".join(lines) + "\n"
