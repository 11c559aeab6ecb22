"""What an evaluation leaves in a folder: scores per image, their statistics, and pictures of the worst images."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import secrets
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaceclip_plugin._files import atomic_path, read_json_object, write_json
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.evaluation.edges import EdgeMetrics
from spaceclip_plugin.evaluation.evaluate import Evaluation, ImageScore, WorstImage
from spaceclip_plugin.evaluation.metrics import DepthMetrics, Metrics, mean_metrics, metrics_deviation, over_images

PER_IMAGE_NAME = "per_image.csv"
SUMMARY_NAME = "summary.json"
WORST_NAME = "worst"

_METRICS = tuple(field.name for field in dataclasses.fields(DepthMetrics))
_EDGE_METRICS = tuple(field.name for field in dataclasses.fields(EdgeMetrics))
_FIRST_COLUMNS = ("name", "valid_pixels", *_METRICS)
_SECOND_COLUMNS = (*_FIRST_COLUMNS, "lens", "familiarity")
_COLUMNS = (*_SECOND_COLUMNS, *_EDGE_METRICS)
_SUMMARY_KEYS = {"protocol", "scale", "images", "mean", "standard_deviation"}
_TILE_PX = 480
_ERROR_SCALES = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
_UNFINISHED = re.compile(r"\.evaluation\.[0-9a-f]{12}\.tmp", re.ASCII)
_PICTURE = re.compile(r"\d{2,}_absrel_\d+\.\d{3}_[\w.-]+\.png", re.ASCII)


@dataclass(frozen=True)
class Report:
    """The files of one evaluation."""

    # CSV (RFC 4180) with a header: name, number of valid pixels and the nine metrics of each image, whose metres were
    # scored ("known", "assumed" or "unknown"), how familiar it is to the head (empty where that does not tell) and how
    # sharp its depth is (empty where that was not looked at, or the truth has no edge)
    per_image: Path
    summary: Path  # JSON with the statistics over images of each metric
    worst: tuple[Path, ...]  # PNG pictures, the image of highest AbsRel first


class ReportFolder:
    """`per_image.csv`, `summary.json` and `worst/`; whole where there is a `summary.json`, which is written last.

    Example:
        >>> import tempfile, torch
        >>> from spaceclip_plugin.evaluation import Evaluation, depth_metrics
        >>> from spaceclip_plugin.evaluation.evaluate import ImageScore
        >>> truth = torch.full((4, 4), 2.0)
        >>> score = ImageScore("photo", depth_metrics(1.5 * truth, truth, valid=truth > 0), valid_pixels=16)
        >>> scores = {"mean": score.metrics, "standard_deviation": score.metrics, "per_image": (score,)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = ReportFolder(folder).write(Evaluation(**scores, protocol="whole-image", flip=False))
        ...     print(report.per_image.read_text().splitlines()[1][:20])
        photo,16,0.5,0.5,1.0
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Claim a folder, made if absent. What it holds is only looked at; `write` replaces an earlier evaluation.

        Raises:
            ConfigError: the folder holds something else than an earlier evaluation, or cannot be made.
        """
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = _foreign(self.path)
        except OSError as error:
            raise ConfigError(
                f"cannot use {str(path)!r} for an evaluation ({error.strerror}); choose a folder you can write to"
            ) from error
        if foreign:
            raise ConfigError(
                f"{str(path)!r} holds {foreign[0]!r}, which is not from an earlier evaluation; nothing was touched: "
                "choose an empty or new folder, or move that away"
            )

    def write(self, evaluation: Evaluation, *, details: Mapping[str, str | float | bool] | None = None) -> Report:
        """Write the files; those of an earlier evaluation are replaced once all are written, and stay if that fails.

        The `worst` images become the pictures; `details`, such as the head and the data, come first in the summary.

        Raises:
            ConfigError: a detail has the name of one of the summary's own entries, or the disk refuses a write.
        """
        own = summary(evaluation)
        taken = sorted(own.keys() & (details or {}).keys())
        if taken:
            raise ConfigError(f"the detail {taken[0]!r} is an entry of every summary; give it another name")
        report = Report(
            per_image=self.path / PER_IMAGE_NAME,
            summary=self.path / SUMMARY_NAME,
            worst=tuple(
                self.path / WORST_NAME / _picture_name(rank, worst)
                for rank, worst in enumerate(evaluation.worst, start=1)
            ),
        )
        temporary = self.path / f".evaluation.{secrets.token_hex(6)}.tmp"
        try:
            for left in self.path.iterdir():  # of a killed process
                if _UNFINISHED.fullmatch(left.name):
                    shutil.rmtree(left)
            _write_table(temporary / PER_IMAGE_NAME, evaluation.per_image)
            for path, worst in zip(report.worst, evaluation.worst, strict=True):
                _write_picture(temporary / WORST_NAME / path.name, worst)
            write_json(temporary / SUMMARY_NAME, {**(details or {}), **own})
            self._replace(temporary, report)
        except OSError as error:
            raise ConfigError(
                f"cannot write the evaluation to {str(self.path)!r}: {error.strerror or error}. Free disk space or "
                "make the folder writable, then evaluate again"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return report

    def _replace(self, written: Path, report: Report) -> None:
        """Put what is written into the place of an earlier evaluation, the summary last."""
        report.summary.unlink(missing_ok=True)
        for picture in (self.path / WORST_NAME).glob("*.png"):
            if _PICTURE.fullmatch(picture.name):
                picture.unlink()
        if report.worst:
            (self.path / WORST_NAME).mkdir(exist_ok=True)
        for path in (*report.worst, report.per_image, report.summary):
            (written / path.relative_to(self.path)).replace(path)


def summary(evaluation: Evaluation) -> dict[str, object]:
    """Statistics over images of each metric, and how they were measured; every image counts alike."""
    sharp = [score.edges for score in evaluation.per_image if score.edges is not None]
    looked = evaluation.images_with_edges is not None
    coverage = evaluation.coverage
    unseen = sum(score.unseen_pixels for score in evaluation.per_image)
    return {
        "protocol": evaluation.protocol,
        "flip": evaluation.flip,
        "scale": "metric",
        "images": len(evaluation.per_image),
        "lenses": evaluation.lenses,
        "familiarity": evaluation.familiarity,
        "unfamiliar": evaluation.unfamiliar,
        **({"unseen_pixels": unseen} if unseen else {}),  # of a tower whose patches do not divide its image
        **_statistics([score.metrics for score in evaluation.per_image]),
        "coverage": None if coverage is None else {str(level): share for level, share in coverage.items()},
        "edges": {"images": len(sharp), **(_statistics(sharp) if sharp else {})} if looked else None,
    }


def _statistics(per_image: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """By the statistic, then by the metric."""
    found = {
        "mean": mean_metrics(per_image),
        "standard_deviation": metrics_deviation(per_image),
        "median": over_images(per_image, statistics.median),
        "lowest": over_images(per_image, min),
        "highest": over_images(per_image, max),
    }
    return {statistic: dataclasses.asdict(metrics) for statistic, metrics in found.items()}


def _foreign(folder: Path) -> list[str]:
    """Names of what no evaluation left in a folder: without their summary, a table and pictures are somebody's own.

    A killed process that was replacing them leaves the new ones beside, in a folder of its own.
    """
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    foreign = [entry.name for entry in entries if not _is_ours(entry)]
    if foreign or not entries:
        return foreign
    left = [entry.name for entry in entries if not _UNFINISHED.fullmatch(entry.name)]
    if SUMMARY_NAME in left:
        return [] if _is_summary_of(folder / SUMMARY_NAME, folder / PER_IMAGE_NAME) else [PER_IMAGE_NAME]
    return left if len(left) == len(entries) else []


def _is_summary_of(summary_file: Path, per_image: Path) -> bool:
    """Whether a table has as many images as its summary says, and their means."""
    if not per_image.is_file():
        return True
    stored = read_json_object(summary_file)
    try:
        with per_image.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        means = [sum(float(row[name]) for row in rows) / max(1, len(rows)) for name in _METRICS]
        mean = dict(stored["mean"]) if isinstance(stored["mean"], dict) else {}
        wanted = [float(mean[name]) for name in _METRICS]
    except (OSError, ValueError, TypeError, KeyError, csv.Error):
        return False
    return len(rows) == stored["images"] and bool(np.allclose(means, wanted, rtol=1e-6, atol=1e-9, equal_nan=False))


def _is_ours(entry: Path) -> bool:
    """Whether an evaluation may have written this entry of a folder, judged by its content, not only by its name."""
    if entry.is_symlink():
        return False
    if _UNFINISHED.fullmatch(entry.name):
        return entry.is_dir()
    if entry.name == WORST_NAME:
        return entry.is_dir() and all(_PICTURE.fullmatch(picture.name) for picture in entry.iterdir())
    if not entry.is_file():
        return False
    if entry.name == PER_IMAGE_NAME:
        known = [[*columns] for columns in (_COLUMNS, _SECOND_COLUMNS, _FIRST_COLUMNS)]  # as each version wrote them
        with entry.open("rb") as file:
            return file.readline(4096).rstrip().decode(errors="replace").split(",") in known
    if entry.name == SUMMARY_NAME:
        try:
            return read_json_object(entry).keys() >= _SUMMARY_KEYS
        except CheckpointError:
            return False
    return False


def _write_table(path: Path, scores: tuple[ImageScore, ...]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for score in scores:
            metrics = (getattr(score.metrics, name) for name in _METRICS)
            edges = (getattr(score.edges, name, None) for name in _EDGE_METRICS)
            writer.writerow((score.name, score.valid_pixels, *metrics, score.lens, score.familiarity, *edges))


def _picture_name(rank: int, worst: WorstImage) -> str:
    """`01_absrel_0.512_<stem>.png`, in letters that every file system takes."""
    stem = re.sub(r"[^\w.-]+", "_", Path(worst.name).stem, flags=re.ASCII)[:80]
    return f"{rank:02d}_absrel_{worst.metrics.abs_rel:.3f}_{stem or 'image'}.png"


def _write_picture(path: Path, worst: WorstImage) -> None:
    """Photo, ground truth where it counts, prediction where the host saw the photo, and error where both are."""
    from spaceclip_plugin.depth import PanelRow, depth_panel, write_png

    row = PanelRow(
        worst.image,
        worst.prediction_m,
        truth_m=np.where(worst.valid, worst.target_m, 0.0),
        valid=worst.prediction_m > 0,
    )
    # For the darkest colour a round error: at the usual 30 % most of a bad picture would have it.
    max_error = next((scale for scale in _ERROR_SCALES if scale >= 1.5 * worst.metrics.abs_rel), _ERROR_SCALES[-1])
    write_png(path, depth_panel([row], max_error=max_error, tile_width_px=_TILE_PX))
