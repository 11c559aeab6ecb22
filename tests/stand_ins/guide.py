"""The commands of a guide, run as its reader would: block by block, in one folder and one Python session."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# Installing is what the wheel's own test does; here it is enough that every extra a guide names exists.
PIP = """#!{python}
import re, sys
from importlib.metadata import metadata

for extra in re.findall(r"(?:spaceclip-plugin|\\.)\\[([^\\]]*)\\]", " ".join(sys.argv[1:])):
    for name in extra.split(","):
        if name not in metadata("spaceclip-plugin").get_all("Provides-Extra"):
            sys.exit(f"spaceclip-plugin has no extra {{name}}")
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the guide where it begins."""

    language: str
    text: str
    line: int


def blocks(guide: Path) -> list[Block]:
    """The fenced `bash` and `python` blocks of a Markdown file; other languages are shown and not run."""
    text = guide.read_text()
    found = re.finditer(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text[: match.start(2)].count("\n") + 1) for match in found]


def run_guide(guide: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **names: object) -> None:
    """Run every block of a guide in `folder`, where the test has laid what the reader is said to have.

    Python blocks find `names`, what a reader has in a session of their own.
    """
    tools = folder / ".tools"
    tools.mkdir(parents=True)
    (tools / "pip").write_text(PIP.format(python=sys.executable))
    (tools / "pip").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    monkeypatch.chdir(folder)
    session: dict[str, object] = {"__name__": "guide", **names}
    for block in blocks(guide):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(guide), "exec"), session)
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (
            f"{guide.name}:{block.line}\n{block.text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
