"""What broken and hostile files of heads and grafts achieve: every attack of tests/attacks, in a process of its own.

python benchmarks/attacks.py             runs all of them and records what became of them
python benchmarks/attacks.py --table     the table of benchmarks/README.md, from the record
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import safetensors
import torch

from spaceclip_plugin._files import read_json_object, write_json

ATTACK = Path(__file__).parents[1] / "tests" / "attacks" / "attack.py"
RECORD = Path(__file__).parent / "results" / "attacks.json"
TITLES = {
    "weights": "mutated weight files",
    "configs": "hostile configs",
    "repositories": "other hostile folders",
    "grafts": "mutated graft files",
}
MB = 1e6


def attack() -> dict[str, Any]:
    """What became of every attack; see tests/attacks/attack.py."""
    done = subprocess.run([sys.executable, str(ATTACK)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(record: dict[str, Any]) -> str:
    """The figures as benchmarks/README.md shows them."""
    found = record["found"]
    rows = ["| Attacked with | attacks | refused by our error | good head loaded | wrong values | code executed |"]
    rows.append("|---|---|---|---|---|---|")
    for name, title in TITLES.items():
        one = found[name]
        numbers = (one["attacks"], one["refused"], one["loaded_unharmed"], one["loaded_wrong"], one["executed"])
        rows.append(f"| {title} | {' | '.join(f'{number:,}' for number in numbers)} |")
    rows.append("")
    rows.append(
        f"All of them together: {found['extra_peak_bytes'] / MB:.0f} MB of memory above the loading of a good one. "
        "A good head beside a pickle or a program is loaded; they are never opened."
    )
    return "\n".join(rows)


def main() -> None:
    """Attack and record, or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and attack nothing")
    if not parser.parse_args().table:
        versions = {"torch": torch.__version__, "safetensors": safetensors.__version__}
        record = {"command": "python benchmarks/attacks.py", "found": attack(), "python": platform.python_version()}
        write_json(RECORD, record | versions)
    print(table(read_json_object(RECORD)))


if __name__ == "__main__":
    main()
