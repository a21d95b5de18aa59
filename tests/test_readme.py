"""README: a shell reads its commands, and each of them composes."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser

import lntrain
from lntrain import cli

README = (Path(lntrain.__file__).parents[1] / "README.md").read_text()
BLOCKS = [re.sub("<[a-z]+>", "name", block) for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("lntrain ")]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_shell_reads_it(block):
    done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command):
    """The first job of a multirun; a launcher is its plugin's to compose."""
    words = [
        word for word in shlex.split(command, comments=True)[1:] if not word.startswith(("-m", "hydra", "resume="))
    ]
    overrides = OverridesParser.create().parse_overrides(words)
    assert len(overrides) == len(words)
    first = [
        f"{o.key_or_group}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else o.input_line
        for o in overrides
    ]
    cli._register()
    with initialize_config_module("lntrain.conf", version_base="1.3"):
        assert compose("config", [str(line) for line in first]).task
