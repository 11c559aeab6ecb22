"""What is released: an sdist, the wheel that is built from it, and `spaceclip demo` in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """A command in a clean environment; what it writes to stdout."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    environment = {
        **kept,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and newer


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this checkout, and the wheel built from nothing but it."""
    pytest.importorskip("hatchling", reason="needs the packages of the extra `dev`")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    [sdist] = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", **SAFELY)
    [source] = (folder / "unpacked").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    [wheel] = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(released: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that holds the wheel alone, and sees the libraries that it requires.

    The libraries are those that run this test: pip finds every requirement there, or fails. The checkout, which is
    installed there too, is not seen, for folders named by a `.pth` file have their own `.pth` files ignored.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    [site] = set(folder.rglob("site-packages"))
    (site / "libraries.pth").write_text("\n".join({sysconfig.get_path(name) for name in ("purelib", "platlib")}))
    pip = (sys.executable, "-m", "pip", "--python", commands / "python")
    run(*pip, "install", "--quiet", "--no-index", "--no-build-isolation", released[1], cwd=folder)
    return commands


def test_a_wheel_holds_the_packages_their_types_and_weights(released: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(released[1]) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"spaceclip_plugin", "spaceclip_adapters", "spaceclip_worlds"}
    for package in tops:
        assert f"{package}/py.typed" in names
    assert "spaceclip_worlds/rover/weights/policy.safetensors" in names
    assert "spaceclip_worlds/arm/weights/head/model.safetensors" in names
    core = [path for path in (ROOT / "spaceclip_plugin").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.relative_to(ROOT).as_posix() for path in core} <= set(names)  # guides and embedded heads, too


def test_an_sdist_holds_what_tests_need(released: tuple[Path, Path]) -> None:
    with tarfile.open(released[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "tests/conftest.py", "examples/safety_filter.py"} <= names


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "spaceclip", "demo", "--arenas", "1", "--json", cwd=tmp_path)
    said = json.loads(printed)
    assert said["actions_identical"] is True
    assert (tmp_path / "spaceclip-demo").is_dir()
    where = run(installed / "python", "-c", "import spaceclip_worlds; print(spaceclip_worlds.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)


@pytest.mark.slow
def test_every_entry_point_leads_somewhere(installed: Path, tmp_path: Path) -> None:
    script = (
        "from importlib.metadata import distribution\n"
        "found = [point for point in distribution('spaceclip-plugin').entry_points]\n"
        "[point.load() for point in found if point.group.startswith('spaceclip_plugin.')]\n"
        "print(len(found))"
    )
    assert int(run(installed / "python", "-c", script, cwd=tmp_path)) > 15
