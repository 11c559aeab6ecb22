"""LeRobot's own command lines, in processes where the package's distributions are installed as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = (ROOT / "adapters" / "lerobot_policy_spaceclip", ROOT / "examples" / "lerobot_env_rover")


def installed(site: Path, built: Path) -> dict[str, str]:
    """The environment of such a process: both packages in a folder of their own, the project as in development."""
    left_out = shutil.ignore_patterns("__pycache__")
    sources = [shutil.copytree(package, built / package.name, ignore=left_out) for package in PACKAGES]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    install = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), *map(str, sources)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "adapters", site)))
    return {
        **os.environ,
        "PYTHONPATH": paths,
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run(environment: dict[str, str], *argv: str, folder: Path) -> str:
    """What a Python process with these arguments prints, on both streams; it must end well."""
    done = subprocess.run(
        [sys.executable, *argv], env=environment, capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr
