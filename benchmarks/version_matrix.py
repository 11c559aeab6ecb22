"""Run the tests with the oldest, the newest and some versions in between of the libraries that hosts come from.

    python benchmarks/version_matrix.py            (`make test-matrix`)
    python benchmarks/version_matrix.py --rows lowest newest
    python benchmarks/version_matrix.py --rows lerobot-0.6    (`make test-lerobot`)
    python benchmarks/version_matrix.py --table    (the tables of benchmarks/ and adapters/README.md)

LeRobot has pins of its own, its torch among them, and so rows of its own. Every row runs the whole suite but for slow
tests: a fault of one version of torch shows wherever the suite looks.

Every row gets an environment of its own (about 5 GB; uv shares files that are equal) and is tested in one thread.
Writes benchmarks/results/version_matrix.json at the end. A row that was left out this time stays in the record if it
ran on the same source files, and leaves it otherwise. A row whose Python is missing is recorded as not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "results" / "version_matrix.json"
TEST_TOOLS = (
    "pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.90", "peft>=0.10", "tensorboard>=2.14", "pip>=23.1",
    "hatchling>=1.27",
)  # fmt: skip
SUITE = "tests"
QUICK = (
    "-m",
    "not slow",
    "-n",
    "auto",
)  # slow tests are of figures and examples, which no version of a library changes
COLUMNS = ("torch", "transformers", "timm", "open_clip_torch", "numpy")
OTHERS = ("torchvision", "einops", "accelerate", "huggingface_hub", "safetensors", "tokenizers", "pillow", "tqdm")
OTHERS_TOO = ("typing_extensions", "peft", "pytest", "hypothesis", "lerobot")
SETTINGS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HF_HUB_OFFLINE"), "1")
FOREIGN = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS")
MARKER = "version-matrix.json"
SHOWN_REASONS = 3
ASK_VERSIONS = """
import importlib.metadata, json, platform, sys
installed = {distribution.metadata["Name"].replace("-", "_") for distribution in importlib.metadata.distributions()}
versions = {name: importlib.metadata.version(name) for name in sys.argv[1:] if name in installed}
print(json.dumps({"python": platform.python_version(), **versions}))
"""


@dataclass(frozen=True)
class Row:
    """Versions, and what is run with them. Warnings are errors only where `strict`: old libraries warn a lot."""

    name: str
    python: str
    pins: tuple[str, ...]
    tests: str = SUITE
    strict: bool = False


def _pins(*versions: str) -> tuple[str, ...]:
    return tuple(f"{name}=={version}" for name, version in zip(COLUMNS, versions, strict=True))


_OLDEST = {
    "accelerate": "0.26.0",
    "huggingface_hub": "0.23.0",
    "safetensors": "0.4.2",
    "einops": "0.8.0",
    "pyyaml": "6.0.1",
    "filelock": "3.12.4",
}
_OLDEST.update({"pillow": "9.4.0", "tqdm": "4.64.0", "typing_extensions": "4.8.0", "peft": "0.10.0"})
_OLDEST_PINS = tuple(f"{name}=={version}" for name, version in _OLDEST.items())

ROWS = (
    Row("lowest", "3.10", _pins("2.2.2", "4.40.1", "0.9.10", "2.20.0", "1.26.4") + _OLDEST_PINS),
    Row("transformers-4.49", "3.12", _pins("2.6.0", "4.49.0", "1.0.14", "2.31.0", "2.2.3")),
    Row("transformers-4.53", "3.12", _pins("2.6.0", "4.53.3", "1.0.16", "2.32.0", "2.3.1")),
    Row("transformers-4.57", "3.12", _pins("2.9.1", "4.57.6", "1.0.20", "3.2.0", "2.3.4")),
    Row("transformers-5.0", "3.12", _pins("2.9.1", "5.0.0", "1.0.24", "3.2.0", "2.4.1")),
    Row("transformers-5.5", "3.12", _pins("2.11.0", "5.5.4", "1.0.26", "3.3.0", "2.4.4")),
    Row("newest", "3.13", (), strict=True),
    Row("lerobot-0.4", "3.11", ("lerobot[xvla]>=0.4.4,<0.5", "dm-tree>=0.1.8,<1", "peft<1")),
    Row("lerobot-0.6", "3.12", ("lerobot[pi,diffusion,dataset]>=0.6,<0.7", "dm-tree>=0.1.8,<1")),
)


class CannotRunError(Exception):
    """Why a row could not run: what to call that in the record, and the reason."""


def without_paths(text: str) -> str:
    """Addresses and folders out of a message; file names stay."""
    text = re.sub(r"\w+://\S+", "URL", text)
    return re.sub(r"(?<![\w./-])/(?:[^\s/'\"`:,]+/)+", "", text)


def call(command: Sequence[object], **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in the project's root, free of the settings of the environment this script runs in."""
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN} | environment
    return subprocess.run([*map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def python_candidates(version: str) -> Iterable[str]:
    """Where Python X.Y may be: on the PATH, known to uv, installed by pyenv."""
    yield shutil.which(f"python{version}") or ""
    if uv := shutil.which("uv"):
        yield call([uv, "python", "find", "--system", "--no-project", "--no-python-downloads", version]).stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True))


def find_python(version: str) -> str:
    """The first candidate that runs and is Python X.Y; pyenv's shims, for one, may be there and not run."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in python_candidates(version):
        if Path(candidate).is_file() and call([candidate, "-c", ask]).stdout.strip() == version:
            return candidate
    raise CannotRunError("not run", f"no Python {version} on this machine")


def make_environment(row: Row, folder: Path, *, fresh: bool) -> Path:
    """Its interpreter. An environment made for the same versions is used again, and follows [project] as it changes."""
    python, marker = folder / "bin" / "python", folder / MARKER
    wanted = {
        "row": [row.python, *row.pins, *TEST_TOOLS],
        "project": [str(ROOT), (ROOT / "pyproject.toml").read_text().split("[tool.")[0]],
    }
    made = json.loads(marker.read_text()) if marker.is_file() and not fresh else {}
    if made == wanted:
        return python
    uv = shutil.which("uv")
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    settings = {"UV_FIND_LINKS": links} if uv and links else {}
    installer = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    steps = [[*installer, "--quiet", *row.pins, *TEST_TOOLS, "-e", ROOT]]
    if made.get("row") != wanted["row"]:
        found = find_python(row.python)
        if (folder / "pyvenv.cfg").is_file():
            shutil.rmtree(folder)
        steps.insert(0, [uv, "venv", "--python", found, folder] if uv else [found, "-m", "venv", folder])
    marker.unlink(missing_ok=True)
    for step in steps:
        done = call(step, **settings)
        if done.returncode != 0:
            lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            raise CannotRunError("not installed", without_paths(" ".join(lines[-4:]))[:400])
    marker.write_text(json.dumps(wanted))
    return python


def first_line(problem: ET.Element) -> str:
    """What went wrong: the message's first line, or what an import ended with."""
    message = problem.get("message", "")
    if message in ("", "collection failure"):
        message = "\n".join([line[1:] for line in (problem.text or "").splitlines() if line.startswith("E ")][-1:])
    return without_paths(message.strip().partition("\n")[0])[:200] or "no reason given"


def read_junit(path: Path) -> dict[str, Any]:
    """Passed, failed, skipped, and what failed, of pytest's JUnit file; errors in setup and teardown are failures."""
    passed = skipped = 0
    failures: dict[str, str] = {}
    for case in ET.parse(path).getroot().iter("testcase"):
        if problems := [*case.findall("failure"), *case.findall("error")]:
            failures.setdefault(f"{case.get('classname')}::{case.get('name')}".lstrip(":"), first_line(problems[0]))
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    listed = [{"test": test, "reason": reason} for test, reason in failures.items()]
    return {"passed": passed, "failed": len(failures), "skipped": skipped, "failures": listed}


def read_contracts(path: Path) -> dict[str, dict[str, Any]]:
    """Every host the contract ran on, by name: its classes, its adapter, and how many of its tests passed and failed.

    One test of each host records its name as a property; the others carry it first in their parameters, or share the
    module with it.
    """
    cases = list(ET.parse(path).getroot().iter("testcase"))
    hosts: dict[str, dict[str, Any]] = {}
    modules: dict[str, str] = {}
    for case in cases:
        properties = {entry.get("name", ""): entry.get("value", "") for entry in case.iter("property")}
        if name := properties.pop("contract", ""):
            hosts[name] = {**properties, "passed": 0, "failed": 0}
            if "[" not in case.get("name", ""):
                modules[case.get("classname", "")] = name
    for case in cases:
        parameters = case.get("name", "").partition("[")[2].rstrip("]")
        named = [name for name in hosts if f"{parameters}-".startswith(f"{name}-")]
        owner = max(named, key=len) if named else modules.get(case.get("classname", ""))
        if owner and case.find("skipped") is None:
            failed = case.find("failure") is not None or case.find("error") is not None
            hosts[owner]["failed" if failed else "passed"] += 1
    return hosts


def run_tests(python: Path, row: Row) -> dict[str, Any]:
    """What pytest found in this environment; an end without a report, or without tests, is a failure too."""
    loose = [] if row.strict else ["-o", "filterwarnings=default"]
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        started = time.monotonic()
        report = [f"--junitxml={junit}", "-o", "junit_family=xunit1"]  # the family that may hold properties
        done = call([python, "-m", "pytest", row.tests, *QUICK, *report, *loose], **SETTINGS)
        seconds = round(time.monotonic() - started)
        try:
            found = {**read_junit(junit), "contracts": read_contracts(junit)}
        except (OSError, ET.ParseError):
            found = {"passed": 0, "failed": 0, "skipped": 0, "failures": []}
    if done.returncode != 0 and not found["failed"]:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        reason = without_paths(f"exit code {done.returncode}: {''.join(last)}")[:200]
        found |= {"failed": 1, "failures": [{"test": "pytest", "reason": reason}]}
    return {"result": "failed" if found["failed"] else "passed", **found, "seconds": seconds}


def source_state(record: Path) -> dict[str, Any]:
    """The commit, whether the tree differs from it (the record left out), and a digest of all but pages and records."""
    if not shutil.which("git") or (commit := call(["git", "rev-parse", "HEAD"])).returncode != 0:
        return {"commit": None, "dirty": None, "source": None}
    others = [f":(exclude){record.relative_to(ROOT)}"] if record.is_relative_to(ROOT) else []
    changes = call(["git", "status", "--porcelain", "--", ".", *others]).stdout
    files = call(["git", "ls-tree", "-r", "HEAD"]).stdout.splitlines()
    tested = [line for line in files if not line.endswith((".md", ".json"))]
    source = hashlib.sha256("\n".join(tested).encode()).hexdigest()[:16]
    return {"commit": commit.stdout.strip(), "dirty": bool(changes.strip()), "source": source}


def run_row(row: Row, folder: Path, record: Path, *, fresh: bool) -> dict[str, Any]:
    """One row of the record."""
    result = {"row": row.name, "tests": row.tests, "warnings_are_errors": row.strict, **source_state(record)}
    try:
        python = make_environment(row, folder, fresh=fresh)
    except CannotRunError as error:
        return {**result, "result": error.args[0], "reason": error.args[1]}
    versions = json.loads(call([python, "-c", ASK_VERSIONS, *COLUMNS, *OTHERS, *OTHERS_TOO]).stdout)
    return {**result, "versions": versions, **run_tests(python, row)}


def merged(earlier: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """This time's rows, and those of before that ran on the same source files, in the order of ROWS."""
    source = now[-1]["source"]
    rows = {row["row"]: row for row in earlier if source is not None and row.get("source") == source}
    rows |= {row["row"]: row for row in now}
    return [rows[row.name] for row in ROWS if row.name in rows]


def write_record(path: Path, now: list[dict[str, Any]]) -> None:
    """Whole or not at all."""
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    record = {"command": "make test-matrix", "machine": platform.machine(), "rows": merged(earlier, now)}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def outcome(row: dict[str, Any]) -> str:
    """The result in words: `310 passed, 2 skipped`."""
    counts = [f"{row[kind]} {kind}" for kind in ("passed", "failed", "skipped") if row.get(kind)]
    return (", ".join(counts) or row["result"]) + (" (uncommitted changes)" if row["dirty"] else "")


def why(row: dict[str, Any]) -> str:
    """Why a row did not pass: each reason, how often, and a test it stopped, the commonest first."""
    tests: dict[str, list[str]] = {}
    for failure in row.get("failures", []):
        tests.setdefault(failure["reason"], []).append(failure["test"].rpartition(".")[2])
    reasons = sorted(tests.items(), key=lambda item: -len(item[1]))
    words = [f"{len(names)} × {reason} (`{names[0]}`)" for reason, names in reasons[:SHOWN_REASONS]]
    rest = sum(len(names) for _, names in reasons[SHOWN_REASONS:])
    return row.get("reason") or "; ".join(words + ([f"{rest} × other reasons"] if rest else [])) or "–"


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["| Row | Python | torch | transformers | timm | open_clip | numpy | ran | result | failed and why |"]
    lines.append("|---" * 10 + "|")
    for row in record["rows"]:
        versions = [row.get("versions", {}).get(name, "–") for name in ("python", *COLUMNS)]
        ran = "the whole suite" if row["tests"] == SUITE else f"`{row['tests']}`"
        cells = [row["row"], *versions, ran, outcome(row), why(row)]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def contract_table(record: dict[str, Any]) -> str:
    """Hosts against rows, as Markdown: ✓ every test of the contract passed, – the class is not in those versions."""
    rows = [row for row in record["rows"] if row.get("contracts")]
    hosts: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["row"] != "newest"):
        for name, contract in row["contracts"].items():
            hosts.setdefault(name, contract)
    header = ["host", "class", "tower", "adapter", *(row["row"].removeprefix("transformers-") for row in rows)]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, contract in sorted(hosts.items(), key=lambda item: (item[1]["adapter"], item[0])):
        results = [row["contracts"].get(name) for row in rows]
        marks = ["–" if one is None else _mark(one) for one in results]
        classes = [f"`{contract[part]}`" for part in ("host", "tower", "adapter")]
        lines.append(f"| {' | '.join([name, *classes, *marks])} |")
    return "\n".join(lines)


def _mark(contract: dict[str, Any]) -> str:
    return f"✗ {contract['failed']}" if contract["failed"] else "✓" if contract["passed"] > 1 else "not run"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Which rows, and where environments and record lie."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=[row.name for row in ROWS], help="only these")
    parser.add_argument("--envs", type=Path, default=ROOT / ".matrix", metavar="DIR", help="where environments go")
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE")
    parser.add_argument("--list", action="store_true", help="say what the rows are, and stop")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown, and stop")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--fresh", action="store_true", help="make every environment anew")
    again.add_argument("--keep", dest="fresh", action="store_false", help="use environments again (the default)")
    parser.set_defaults(fresh=False)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run rows and record them; 1 if one of them failed, or if none could run."""
    args = arguments(argv)
    record = args.record.resolve()
    chosen = [row for row in ROWS if args.rows is None or row.name in args.rows]
    if args.table:
        recorded = json.loads(record.read_text())
        print(table(recorded), contract_table(recorded), sep="\n\n")
        return 0
    if args.list:
        for row in chosen:
            print(f"{row.name}: Python {row.python}, {row.tests}, {' '.join(row.pins) or 'the newest of everything'}")
        return 0
    results: list[dict[str, Any]] = []
    try:
        for row in chosen:
            print(f"{row.name}: …", flush=True)
            results.append(run_row(row, args.envs.resolve() / row.name, record, fresh=args.fresh))
            print(f"{row.name}: {outcome(results[-1])}; {why(results[-1])}", flush=True)
    finally:
        if results:
            write_record(record, results)
    ran = {result["result"] for result in results} - {"not run"}
    return 0 if ran == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
