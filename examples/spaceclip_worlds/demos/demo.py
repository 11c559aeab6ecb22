"""What the demos share: they report figures, and replace in their folder what an earlier demo wrote, and nothing else.

A demo is a frozen dataclass of its settings in the entry-point group `spaceclip_plugin.demos`, whose
`run(out, *, overwrite, progress)` gives a `DemoReport`. `spaceclip demo` makes and runs it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from spaceclip_plugin import DepthMap
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.depth import PanelRow, depth_panel, write_png
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import DepthMetrics

RECORD = "metrics.json"
FILES = {"picture": "depth.png", "points": "points.ply", "depth_mm": "depth_mm.png"}
"""What a demo writes beside its record, by kind."""
SHOWN = 4
"""How many images the picture shows."""
_WRITTEN = "written"
"""Key of the record that tells what the demo wrote: the SHA-256 of each file by its name."""


@dataclass(frozen=True, eq=False)
class DemoReport:
    """What a demo measured and wrote.

    Attributes:
        lines: for people.
        figures: the same for programs, plain JSON values.
        files: what was written, by kind.
    """

    lines: tuple[str, ...]
    figures: dict[str, object]
    files: dict[str, Path]


def figures_line(metrics: DepthMetrics, label: str) -> str:
    """Three metrics and whose they are."""
    return f"  AbsRel {metrics.abs_rel:.3f}  RMSE {metrics.rmse:.3f} m  delta1 {metrics.delta1:.3f}  {label}"


def check_demo_folder(out: Path, *, overwrite: bool) -> None:
    """Check, before any work, that a demo's files may be written to a folder, which may be absent.

    Raises:
        ConfigError: without `overwrite`, something there is not as an earlier demo left it; or a folder is in the way.
    """
    if os.path.lexists(out) and not os.path.isdir(out):
        raise ConfigError(f"cannot write a demo to {str(out)!r}: it is no folder; choose another --out")
    there = [out / name for name in (*FILES.values(), RECORD) if os.path.lexists(out / name)]
    folders = [path for path in there if os.path.isdir(path)]
    written = _written(out / RECORD)
    foreign = [path for path in there if not _is_as_written(path, written)]
    if folders or (foreign and not overwrite):
        raise ConfigError(
            f"{str((folders or foreign)[0])!r} is not as an earlier demo left it, and is not replaced; nothing was "
            "touched: choose another --out, move it away, or give --overwrite"
        )


def write_pictures(out: Path, samples: Sequence[DepthSample], depths: Sequence[DepthMap]) -> dict[str, Path]:
    """Write a picture of all samples, and points and depth of the first; their paths, by kind."""
    out.mkdir(parents=True, exist_ok=True)
    files = {kind: out / name for kind, name in FILES.items()}
    rows = [
        PanelRow(sample.image, _array(depth.depth_m), sample.depth_m, _array(depth.valid))
        for sample, depth in zip(samples, depths, strict=True)
    ]
    write_png(files["picture"], depth_panel(rows))
    depths[0].save_png16(files["depth_mm"])
    if samples[0].intrinsics is not None:
        depths[0].save_ply(files["points"], samples[0].intrinsics, image=samples[0].image)
    return files


def write_record(out: Path, record: Mapping[str, object], files: Iterable[Path]) -> Path:
    """Write the figures, and digests of the files, by which a later demo knows them as an earlier one's."""
    path = out / RECORD
    text = json.dumps({**record, _WRITTEN: digests(files)}, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def digests(files: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 (hex) of each file by its name, for the record."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _array(maps: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = maps[0].cpu().numpy()
    return array


def _written(record: Path) -> Mapping[str, object] | None:
    """What the record says was written; None where there is none of a demo."""
    try:
        written = json.loads(record.read_text(encoding="utf-8"))[_WRITTEN]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return written if isinstance(written, dict) else None


def _is_as_written(path: Path, written: Mapping[str, object] | None) -> bool:
    if written is None or path.is_symlink() or not path.is_file():
        return False
    return path.name == RECORD or digests([path])[path.name] == written.get(path.name)
