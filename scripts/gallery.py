"""The gallery as the repository keeps it: `python scripts/gallery.py [lntrain-gallery's options]`.

Runs `lntrain-gallery`, then writes GALLERY.md with smaller pictures in outputs/example/gallery, and the arms of every
entry in tests/experiments/gallery/recorded, on which the tests swap and spoil.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from lntrain.experiments.gallery import main, page
from lntrain.experiments.gallery.paper import figure1_ends
from lntrain.experiments.gallery.run import ends
from lntrain.runs.files import read_arrays

ROOT = Path(__file__).parents[1]
PICTURES, RECORDED = Path("outputs/example/gallery"), ROOT / "tests" / "experiments" / "gallery" / "recorded"
WIDTH = 1000  # pixels of a committed picture


def keep(row: page.Row) -> None:
    """An entry's picture and its arms."""
    if row.picture is not None:
        image = Image.open(row.picture).convert("RGB")
        image.thumbnail((WIDTH, WIDTH))
        image.quantize(64).save(ROOT / PICTURES / f"{row.name}.png", optimize=True)
    arrays = read_arrays(row.folder / "result.npz")
    if row.name in ("path", "real_path"):
        arrays = {f"path/{key}": arrays[key] for key in ("distances", "distances_fit")}
    elif row.name in ("figure1", "matrix_sensing", "digits"):
        nested: dict[str, dict[str, np.ndarray]] = {}
        for key, values in arrays.items():
            arm, _, quantity = key.rpartition("/")
            nested.setdefault(arm, {})[quantity] = values
        nested.pop("", None)
        made = figure1_ends(nested) if row.name == "figure1" else ends(nested)
        arrays = {f"{arm}/{key}": value for arm, values in made.items() for key, value in values.items()}
    np.savez_compressed(RECORDED / f"{row.name}.npz", **arrays)  # type: ignore[arg-type]


def write() -> None:
    """GALLERY.md, pictures and arms, from what outputs/gallery holds."""
    folder = Path("outputs") / "gallery"
    (ROOT / PICTURES).mkdir(parents=True, exist_ok=True)
    RECORDED.mkdir(exist_ok=True)
    rows = page.rows_in(folder, main.declarations())
    for row in rows:
        keep(row)
    shown = {row.name: f"{PICTURES}/{row.name}.png" for row in rows}
    (ROOT / "GALLERY.md").write_text(page.markdown(rows, 0, shown))


if __name__ == "__main__":
    code = main.run(sys.argv[1:])
    write()
    sys.exit(code)
