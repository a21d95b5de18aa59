"""One module writes the files of a run: whatever else in the package opens one for writing is found here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lntrain

ROOT = Path(lntrain.__file__).parent
HOME = "runs/files.py"
WRITING = {"write_text", "write_bytes", "savefig", "savez", "savez_compressed", "savetxt", "tofile", "to_csv"}
TO_BUFFERS = {("sweeps/page.py", "savefig")}  # a picture within a page


def _opens_for_writing(call):
    """open(...) or path.open(...) with a mode that is not known to be one of reading."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in WRITING:
        return name
    if name != "open":
        return None
    places = call.args[1:] if isinstance(call.func, ast.Name) else call.args[:1]
    mode = next(iter(places), next((k.value for k in call.keywords if k.arg == "mode"), ast.Constant("r")))
    reading = isinstance(mode, ast.Constant) and not set(str(mode.value)) & set("wax+")
    return None if reading else "open"


def _writes(source):
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [(call.lineno, name) for call in calls if (name := _opens_for_writing(call)) is not None]


def test_only_one_module_opens_files_for_writing():
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, name in _writes(path.read_text())
        if str(path.relative_to(ROOT)) != HOME and (str(path.relative_to(ROOT)), name) not in TO_BUFFERS
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    ["open('a', 'w')", "path.open('ab')", "path.open(mode='x')", "open('a', mode)", "path.write_text('')"],
)
def test_the_audit_sees_a_write(line):
    assert len(_writes(line)) == 1


@pytest.mark.parametrize("line", ["open('a')", "path.open('rb')", "path.read_text()", "gzip.decompress(b'')"])
def test_the_audit_passes_reading(line):
    assert not _writes(line)
