"""One digest for the code of this package: a run is the same bit by bit only where the code is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import spaceclip_plugin


def code_digest(package: Path | None = None) -> str:
    """SHA-256 (hex) over the Python files of a package: their places in it and their lines, however those end.

    Args:
        package: its folder; None: that of `spaceclip_plugin`.
    """
    folder = Path(spaceclip_plugin.__file__).parent if package is None else package
    total = hashlib.sha256()
    for place, path in sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py")):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{place}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()
