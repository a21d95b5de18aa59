"""`lntrain-gallery`: every entry by one command, a sweep over experiments; then its page and its Markdown."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lntrain.experiments.gallery import page
from lntrain.experiments.gallery.declared import VERDICTS, Declared
from lntrain.runs.files import write_atomically

ONLY = "this entry alone; may be given again; the one way to digits, which takes long"


def declarations() -> dict[str, dict[str, Any]]:
    """Experiment -> its `gallery` section, in the gallery's order; those that have one."""
    folder = files("lntrain.conf") / "experiment"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        section = OmegaConf.to_container(OmegaConf.create(file.read_text())).get("gallery")  # type: ignore[union-attr]
        if section:
            found[file.name.removesuffix(".yaml")] = section
    return dict(sorted(found.items(), key=lambda item: page.order(item[1]["entry"])))


def seconds(section: dict[str, Any]) -> int:
    """What an entry takes, about."""
    return int(section.get("seconds", Declared.seconds))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; argparse exits with 2 on a mistake."""
    parser = argparse.ArgumentParser("lntrain-gallery", description="The works around the paper, each with a verdict.")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help=ONLY,
    )
    parser.add_argument("--seed", type=int, default=0, help="of all data and noise; choose your own (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="entries at a time (default 2)")
    parser.add_argument("--list", action="store_true", help="name the entries and stop")
    parser.add_argument("--quick", action="store_true", help="test use: tiny runs, whose verdicts mean nothing")
    parser.add_argument("--out", type=Path, help="folder to write to (default outputs/gallery or gallery-SEED)")
    options = parser.parse_args(arguments)
    known = declarations() if options.only else {}
    for name in options.only or ():
        if name not in known:
            parser.error(f"{name!r} is no entry: choose from {', '.join(known)}")
    if options.jobs < 1 or options.seed < 0:
        parser.error(f"--jobs {options.jobs} must be at least 1 and --seed {options.seed} not negative")
    return options


def command(names: Sequence[str], options: argparse.Namespace, folder: Path) -> list[str]:
    """The sweep over experiments; what is finished and unchanged is left as it is."""
    own = [
        sys.executable,
        "-c",
        "from lntrain.cli import main; main()",
        "-m",
        f"experiment={','.join(names)}",
        f"seed={options.seed}",
    ]
    own += ["figures=true", "sweep.changed=rerun", f"hydra.sweep.dir={folder}", f"hydra.launcher.n_jobs={options.jobs}"]
    return own


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if every verdict is as the entry declares, 1 if one is not or an entry failed."""
    options, rows = parse(arguments), declarations()
    if options.list:
        print("\n".join(f"{name:<18} {seconds(section):>4} s  {section['source']}" for name, section in rows.items()))
        return 0
    names = options.only or [name for name, section in rows.items() if not section.get("apart")]
    names = sorted(names, key=lambda name: -seconds(rows[name]))  # a long one begun last would keep one core alone
    folder = options.out or Path("outputs") / ("gallery" if options.seed == 0 else f"gallery-{options.seed}")
    code = 0
    for size in ("quick", "full"):  # entries that measure their own arms know no size
        chosen = [n for n in names if size == ("quick" if options.quick and rows[n].get("quick") else "full")]
        if chosen:
            extra = ["gallery.size=quick"] if size == "quick" else []
            code |= subprocess.call([*command(chosen, options, folder), *extra])
    told = page.rows_in(folder, rows)
    write_atomically(folder / "index.html", page.html(told, options.seed).encode())
    write_atomically(folder / "GALLERY.md", page.markdown(told, options.seed).encode())
    counts = {verdict: sum(row.verdict == verdict for row in told) for verdict in (*VERDICTS, "error")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    print(f"wrote     {folder / 'index.html'}")
    return int(bool(code or counts["unexpected"] or counts["error"]))


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())
