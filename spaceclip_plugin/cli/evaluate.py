"""`spaceclip eval`: how good is a head on some data?"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from spaceclip_plugin.cli.data import SOURCE_HELP, add_reading, as_flagged, open_specs, skipped
from spaceclip_plugin.cli.flags import given
from spaceclip_plugin.cli.hosts import add_attachment, attached
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.data import check_depth_units, parse_source
from spaceclip_plugin.data.files.pairs import RAY
from spaceclip_plugin.depth.depth_map import ASSUMED, KNOWN, UNKNOWN
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import Evaluation, ReportFolder, evaluate
from spaceclip_plugin.evaluation.report import Report
from spaceclip_plugin.training.config.shared import ReadingConfig

_WORST = 8
_TABLE = (
    {"abs_rel": "AbsRel", "sq_rel": "SqRel", "rmse": "RMSE"},
    {"rmse_log": "RMSElog", "log10": "log10", "silog": "SILog"},
    {"delta1": "delta1", "delta2": "delta2", "delta3": "delta3"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Host, head, data, protocol and where to write."""
    add_attachment(parser)
    add_reading(parser)
    parser.add_argument("--data", required=True, metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image: two forwards")
    parser.add_argument(
        "--edges",
        action=argparse.BooleanOptionalAction,
        help="how sharp depth is, which says something only where the data's depth is exact at every pixel (default: "
        "where the data says that of itself, as scenes: does)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for per_image.csv, summary.json and worst/; made if absent, an earlier evaluation is replaced",
    )
    parser.add_argument(
        "--worst", type=int, metavar="N", help=f"pictures of the N images of highest AbsRel, with --out ({_WORST})"
    )


def run(args: argparse.Namespace) -> Result:
    """Evaluate one image at a time; what can be wrong with data and folder is found before the host is loaded."""
    reading = ReadingConfig(**given(args, ReadingConfig))
    protocol = reading.evaluation
    keep_worst = _worst(args)
    samples = open_specs(as_flagged([parse_source(args.data)], args), reading)
    check_depth_units(samples, protocol)

    from tqdm.auto import tqdm

    folder = None if args.out is None else ReportFolder(args.out)
    with attached(args) as attachment, tqdm(total=len(samples), desc="evaluating", unit="image") as bar:
        result = evaluate(
            attachment,
            samples,
            protocol=protocol,
            flip=args.flip,
            keep_worst=keep_worst,
            edges=args.edges,
            progress=bar.update,
        )
        trained = attachment.head.trained
    data = {
        **dataclasses.asdict(result.mean),
        "spread": dataclasses.asdict(result.standard_deviation),
        "images": len(result.per_image),
        "protocol": result.protocol,
        "flip": result.flip,
        "coverage": result.coverage,
        "lenses": result.lenses,
        "familiarity": result.familiarity,
        "unfamiliar": result.unfamiliar,
        "edges": _edges(result),
        "trained": trained,
        "skipped": skipped(samples),
    }
    if unseen := _unseen(result):
        data["unseen_pixels"] = unseen
    report = None
    if folder is not None:
        details = {"head": str(args.head), "data": args.data, "trained": trained}
        # What the flags said of the data's depth.
        details |= {} if reading.units_per_metre is None else {"units_per_metre": reading.units_per_metre}
        details |= {"distance": RAY} if args.ray_distance else {}
        report = folder.write(result, details=details)
        worst = [str(path) for path in report.worst]
        data["files"] = {"per_image": str(report.per_image), "summary": str(report.summary), "worst": worst}
    return Result(_text(result, report), data)


def _worst(args: argparse.Namespace) -> int:
    """How many pictures to write."""
    if args.worst is None:
        return 0 if args.out is None else _WORST
    if args.out is None:
        raise ConfigError(f"--worst {args.worst} writes pictures, and needs --out DIR to put them in")
    if args.worst < 0:
        raise ConfigError(f"--worst is a number of images, 0 or more, got {args.worst}")
    return int(args.worst)


def _unseen(result: Evaluation) -> int:
    """Pixels with ground truth that the tower does not read."""
    return sum(score.unseen_pixels for score in result.per_image)


def _seen(result: Evaluation) -> list[str]:
    """Whose metres were scored, and how familiar the images were, as far as the head tells."""
    images, lenses, lines = len(result.per_image), result.lenses, []
    if lenses.keys() != {UNKNOWN}:
        lines.append(
            f"{lenses.get(KNOWN, 0)} of {images} images in metres of their own camera, {lenses.get(ASSUMED, 0)} of the "
            "one that the head assumes"
        )
    if result.familiarity is not None and result.unfamiliar is not None:
        unlike = round(result.unfamiliar * images)
        lines.append(f"familiarity {result.familiarity:.2f}, {unlike} of {images} images unlike those of the training")
    return lines


def _edges(result: Evaluation) -> dict[str, int | float] | None:
    """For `--json`: how many images have edges, and the figures where there is one."""
    if result.images_with_edges is None:
        return None
    return {"images": result.images_with_edges, **({} if result.edges is None else dataclasses.asdict(result.edges))}


def _sharpness(result: Evaluation) -> list[str]:
    if result.images_with_edges is None:
        return []
    counted, edges = f"{result.images_with_edges} of {len(result.per_image)} images have edges", result.edges
    if edges is None:
        return [f"{counted}: there is nothing to say of how sharp depth is"]
    return [
        f"{counted}: boundary F1 {edges.boundary_f1:.4f}, precision {edges.boundary_precision:.4f}, recall "
        f"{edges.boundary_recall:.4f}; accuracy {edges.edge_accuracy_px:.2f} px, completeness "
        f"{edges.edge_completeness_px:.2f} px; AbsRel {edges.abs_rel_near:.4f} at edges, {edges.abs_rel_away:.4f} away"
    ]


def _text(result: Evaluation, report: Report | None) -> str:
    images = len(result.per_image)
    spread = vars(result.standard_deviation) if images > 1 else {}
    lines = [
        "  ".join(
            f"{title} {vars(result.mean)[name]:.4f}" + (f" ± {spread[name]:.4f}" if spread else "")
            for name, title in row.items()
        )
        for row in _TABLE
    ]
    lines[-1] += "  (mean ± sd over images)" if spread else ""
    forwards = "two forwards (flip)" if result.flip else "one forward"
    lines.append(f"{images} images, protocol {result.protocol}, {forwards}, metric scale")
    lines += [*_sharpness(result), *_seen(result)]
    if _unseen(result):
        lines.append(f"{_unseen(result)} pixels with ground truth are not scored: the tower never reads them")
    if result.coverage is not None:
        held = ", ".join(f"{100 * level:.0f} % {100 * share:.1f} %" for level, share in result.coverage.items())
        lines.append(f"share of the pixels in intervals of the predicted uncertainty: {held}")
    if report is not None:
        pictures = f", {len(report.worst)} pictures in {report.worst[0].parent}" if report.worst else ""
        lines.append(f"written: {report.per_image}, {report.summary}{pictures}")
    return "\n".join(lines)
