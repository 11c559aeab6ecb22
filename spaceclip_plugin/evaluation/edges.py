"""How sharp depth is: whether it jumps where the truth does, and how right it is beside these edges and away from them.

All of it means something only where the truth is exact at every pixel, as a renderer's is. In-filled depth has edges
that nobody measured, sparse depth has next to none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin.evaluation.contours import contours, distance_px, steps
from spaceclip_plugin.evaluation.metrics import comparable

BOUNDARY_RATIOS = torch.linspace(1.05, 1.25, 10, dtype=torch.float64)
CONTOUR_RATIO = 1.1
"""Above what most slanted surfaces have from one pixel to the next, below what one thing before another has."""
FARTHEST_EDGE_PX = 10
_NEAR_SHARE = 1 / 56


@dataclass(frozen=True)
class EdgeMetrics:
    """How sharp the depth of one image is, or a statistic of that over images; see `edge_metrics`.

    Attributes:
        boundary_f1: of neighbours between which depth jumps, in [0, 1]; 1 is best.
        boundary_precision: share of the predicted jumps that the truth has as well.
        boundary_recall: share of the true jumps that are predicted.
        edge_accuracy_px: how far predicted contours are from true ones, in [0, 10] pixels, of those that are less than
            10 px away; 10 where there are none.
        edge_completeness_px: how far true contours are from predicted ones, in [0, 10] pixels.
        abs_rel_near: AbsRel of the pixels at a true contour.
        abs_rel_away: AbsRel of all others.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.evaluation import edge_metrics
        >>> truth, shifted = torch.ones(24, 32), torch.ones(24, 32)
        >>> truth[:, 16:], shifted[:, 19:] = 2.0, 2.0
        >>> metrics = edge_metrics(shifted, truth, valid=truth > 0)
        >>> metrics.boundary_f1, metrics.edge_accuracy_px, metrics.abs_rel_near > metrics.abs_rel_away
        (0.0, 3.0, True)
    """

    boundary_f1: float
    boundary_precision: float
    boundary_recall: float
    edge_accuracy_px: float
    edge_completeness_px: float
    abs_rel_near: float
    abs_rel_away: float


def edge_metrics(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> EdgeMetrics | None:
    """How sharp the depth of one image is, on its valid pixels, against truth that is exact at every one of them.

    Boundary F1 is that of Depth Pro (Bochkovskii et al., arXiv 2410.02073, "Evaluation metrics for sharp boundaries"):
    depth jumps between two of four neighbours where it differs by more than a ratio t; precision and recall are those
    of predicted jumps, in the same place and direction, over all pairs of an image, as the paper has it (the released
    code averages them over the four directions, and then a perfect prediction of upright edges alone gets 0.5). The
    mean is over ten t from 1.05 to 1.25, weighted by t, and leaves out those at which neither map has a jump. The
    scale of a prediction makes no difference.

    Accuracy and completeness are after the depth boundary errors of iBims-1 (Koch et al. 2018), with other edges. There
    Canny finds those of the prediction, on depth brought to [0, 1], and the true ones come with the data. Here the
    edges of both are contours: pixels with a neighbour that is more than 1.1 times as far. They are not thinned: where
    a prediction slopes instead of jumping, every pixel of a slope that is steep enough is one.

    A pixel is at a true contour within 1/56 of the image's shorter side, at least 1 px: 4 px of 224. Pixels that are
    not valid, and pairs with one, do not count: what stands before the sky, or before what is out of range, has no
    edge there.

    Args:
        prediction_m: (H, W) predicted metres.
        target_m: (H, W) true metres.
        valid: (H, W) bool, the pixels that count.

    Returns:
        None where the truth has no contour, or no pixel away from one: such an image has no figures.

    Raises:
        DataError: see `depth_metrics`.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.evaluation import edge_metrics
        >>> truth = torch.ones(24, 32)
        >>> edge_metrics(truth, truth, valid=truth > 0) is None
        True
        >>> truth[8:16, 8:16] = 0.5
        >>> edge_metrics(3 * truth, truth, valid=truth > 0).boundary_f1
        1.0
    """
    predicted, true, mask = comparable(prediction_m, target_m, valid)
    true_contours = contours(true, mask, ratio=CONTOUR_RATIO)
    reach_px = max(1, round(min(mask.shape) * _NEAR_SHARE))
    from_true_px = distance_px(true_contours, limit_px=max(FARTHEST_EDGE_PX, reach_px + 1))
    near, away = mask & (from_true_px <= reach_px), mask & (from_true_px > reach_px)
    if not (bool(near.any()) and bool(away.any())):
        return None
    f1, precision, recall = _boundary(steps(predicted, mask), steps(true, mask))
    predicted_contours = contours(predicted, mask, ratio=CONTOUR_RATIO)
    from_predicted_px = distance_px(predicted_contours, limit_px=FARTHEST_EDGE_PX)
    beside = predicted_contours & (from_true_px < FARTHEST_EDGE_PX)
    relative = (predicted - true).abs() / true
    return EdgeMetrics(
        boundary_f1=f1,
        boundary_precision=precision,
        boundary_recall=recall,
        edge_accuracy_px=float(from_true_px[beside].mean()) if bool(beside.any()) else float(FARTHEST_EDGE_PX),
        edge_completeness_px=float(from_predicted_px[true_contours].mean()),
        abs_rel_near=float(relative[near].mean()),
        abs_rel_away=float(relative[away].mean()),
    )


def _boundary(predicted: Tensor, true: Tensor) -> tuple[float, float, float]:
    """F1, precision and recall of jumps among (P,) steps, of which at least one true one is a jump."""
    alike = predicted.sign() == true.sign()
    # A step that both have is a jump of both up to the smaller of their ratios.
    shared = torch.where(alike, torch.minimum(predicted.abs(), true.abs()), 0.0)
    right, found, there = (_jumps(ratios) for ratios in (shared, predicted.abs(), true.abs()))
    weights = BOUNDARY_RATIOS * (found + there > 0)
    scores = (2 * right / (found + there).clamp_min(1), right / found.clamp_min(1), right / there.clamp_min(1))
    f1, precision, recall = (float((weights * score).sum() / weights.sum()) for score in scores)
    return f1, precision, recall


def _jumps(ratios: Tensor) -> Tensor:
    """(10,) how many of the ratios are beyond each of `BOUNDARY_RATIOS`."""
    large = ratios[ratios > BOUNDARY_RATIOS[0]]
    return (large[:, None] > BOUNDARY_RATIOS).sum(0).double()
