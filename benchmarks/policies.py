"""Which of LeRobot's policies depth works with, each tried with small random weights.

    python benchmarks/policies.py            tries all policies of the installed LeRobot, some minutes
    python benchmarks/policies.py --table    the table of the LeRobot guide, from the record

What is tried is tests/bridges/lerobot/policy_checks.py: random weights show that a policy is loaded, that its images
and depth lie where they should, and that the commands run through; how good depth becomes they do not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spaceclip_plugin._files import read_json_object, write_json

RECORD = Path(__file__).parent / "results" / "policies.json"
TESTS = Path(__file__).parents[1] / "tests"
CHECKS = {
    "host": "`--host lerobot:`",
    "preparation": "photos as it prepares them",
    "mapping": "depth over the camera's image",
    "train": "`train`",
    "annotate": "`annotate`",
}


def tried() -> dict[str, Any]:
    """What came of every check, in a process whose imports those of the tests are."""
    paths = [*map(str, (TESTS / "bridges" / "lerobot", TESTS / "stand_ins")), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    checks = TESTS / "bridges" / "lerobot" / "policy_checks.py"
    done = subprocess.run([sys.executable, str(checks)], stdout=subprocess.PIPE, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(record: Mapping[str, Any]) -> str:
    """The record as the guide shows it: policies that see alike stand together."""
    lines = [f"| Policy | {' | '.join(CHECKS.values())} | why not |", "|---" * (len(CHECKS) + 2) + "|"]
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, found in record["policies"].items():
        alike.setdefault(tuple(cells(found)), []).append(f"`{name}`")
    lines += [f"| {', '.join(names)} | {' | '.join(row)} |" for row, names in alike.items()]
    return "\n".join(lines)


def cells(found: Mapping[str, Any]) -> list[str]:
    """A tick for each check that held, and the reasons of those that did not."""
    if "not tried" in found:
        return ["not tried"] * len(CHECKS) + [str(found["not tried"])]
    ticks = ["✓" if name in found and found[name] is None else "–" for name in CHECKS]
    reasons = dict.fromkeys(reason(each) for each in found.values() if each is not None)
    return [*ticks, "; ".join(reasons)]


def reason(failure: Mapping[str, str]) -> str:
    """The words of an error and its class, those of a policy without a tower cut to what it sees with."""
    words = failure["says"]
    if "which sees with" in words:
        return f"sees with {words.partition('which sees with ')[2].partition(':')[0]}"
    return words if failure["error"] == "LackingError" else f"{words} ({failure['error']})"


def main() -> None:
    """Try and record, or print the record as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and try nothing")
    if not parser.parse_args().table:
        write_json(RECORD, tried())
    print(table(read_json_object(RECORD)))


if __name__ == "__main__":
    main()
