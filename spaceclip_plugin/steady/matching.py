"""Where the surfaces of a frame were in one before it: found by the tower's own tokens, then to a part of a cell.

A place is (2, h, w): the column and row, in cells of the earlier frame, of what each cell shows; the middle of the
first is at (0.5, 0.5).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from spaceclip_plugin.steady.grid import cell_centres, sampled, window_mean
from spaceclip_plugin.steady.look import Look

_SHARPNESS = 25.0  # of the mean over the best match's neighbours
_WINDOW = 9  # cells that move together, in the refinement
_ROUNDS = 3
_LONGEST_STEP = 1.5  # cells in a round
_FLAT = 1e-3  # square contrast a cell, of normalised pixels, below which nothing is refined
_NOISE = 2e-3  # variance of grey within a window that is no contrast
_AGREEMENT_WINDOW = 5


def matched_places(new: Look, old: Look) -> Tensor:
    """Where each cell of the new look was in the old one, whatever moved: (2, h, w)."""
    return cell_centres(new.grid_hw) + _refined(new.grey, old.grey, _coarse_motion(new, old))


def agreement(new_grey: Tensor, old_grey: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """How alike cells (1, h, w) look to what lies at those places of an earlier look, and which of those lie inside.

    The correlation of small windows, from -1 to 1, with as much noise as makes two flat ones alike; the less, the more
    they differ in brightness, measured by the contrast of the whole image.
    """
    old, inside = sampled(old_grey, places)
    stacked = torch.cat([new_grey, old, new_grey * new_grey, old * old, new_grey * old])
    new_mean, old_mean, new_square, old_square, product = window_mean(stacked, _AGREEMENT_WINDOW)
    new_variance = (new_square - new_mean * new_mean).clamp_min(0) + _NOISE
    old_variance = (old_square - old_mean * old_mean).clamp_min(0) + _NOISE
    alike = (product - new_mean * old_mean + _NOISE) / (new_variance * old_variance).sqrt()
    off = new_mean - old_mean
    off = off - off.median()  # exposure
    return alike * torch.exp(-off.square() / new_grey.var().clamp_min(_NOISE)), inside


def _coarse_motion(new: Look, old: Look) -> Tensor:
    """(2, h, w) in cells, from every token to the one it looks like, together with its neighbours."""
    (rows, columns), (height, width) = new.tokens.shape[2:], new.grid_hw
    count = rows * columns
    alike = new.tokens[0].flatten(1).T @ old.tokens[0].flatten(1)
    alike = _with_neighbours(alike.reshape(rows, columns, rows, columns)).reshape(count, count)
    best = alike.argmax(dim=1)
    row, column = (axis.flatten() for axis in _indices(rows, columns, alike.device))
    near = ((row - row[best][:, None]).abs() <= 1) & ((column - column[best][:, None]).abs() <= 1)
    weights = (alike * _SHARPNESS).masked_fill(~near, -torch.inf).softmax(dim=1)
    motion = torch.stack([weights @ column.to(alike) - column, weights @ row.to(alike) - row])
    motion = _median_of_neighbours(motion.reshape(2, rows, columns))
    cells = torch.tensor([width / columns, height / rows], device=motion.device, dtype=motion.dtype)
    return interpolate((motion * cells[:, None, None])[None], size=(height, width), mode="bilinear")[0]


def _indices(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return row, column


def _with_neighbours(alike: Tensor) -> Tensor:
    """(r, c, r, c) likeness of tokens, with a share of that of their neighbours to the neighbours of the other."""
    return _along(_along(alike, 0), 1)


def _along(alike: Tensor, axis: int) -> Tensor:
    """Mean of likeness one step on, here and one step back, of both tokens along that axis."""
    count = alike.shape[axis]
    total = alike.clone()
    for ahead, behind in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        to, of = (tuple(step if at % 2 == axis else slice(None) for at in range(4)) for step in (ahead, behind))
        total[to] += alike[of]
    ends = torch.ones(count, device=alike.device, dtype=alike.dtype)
    ends[-1] = 0.0  # no step on from there; none back from the first
    terms = 1 + torch.outer(ends, ends) + torch.outer(ends.flip(0), ends.flip(0))
    return total / terms.reshape([count if at % 2 == axis else 1 for at in range(4)])


def _median_of_neighbours(motion: Tensor) -> Tensor:
    """Motion (2, r, c) without what a single token alone says."""
    padded = pad(motion[None], (1, 1, 1, 1), mode="replicate")[0]
    rows, columns = motion.shape[1:]
    shifted = [padded[:, down : down + rows, right : right + columns] for down in range(3) for right in range(3)]
    return torch.stack(shifted).sort(dim=0).values[len(shifted) // 2]


def _refined(new_grey: Tensor, old_grey: Tensor, motion: Tensor) -> Tensor:
    """Motion to a part of a cell, by the image's gradient (Lucas and Kanade, 1981), windows as bright as each other."""
    padded = pad(new_grey[None], (1, 1, 1, 1), mode="replicate")[0]
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    moments = window_mean(torch.cat([across * across, across * down, down * down, new_grey]), _WINDOW)
    xx, xy, yy = moments[0] + _FLAT, moments[1], moments[2] + _FLAT
    brighter, determinant = new_grey - moments[3:], xx * yy - xy * xy
    centres = cell_centres((new_grey.shape[1], new_grey.shape[2]))
    for _ in range(_ROUNDS):
        old, inside = sampled(old_grey, centres + motion)
        off = (old - window_mean(old, _WINDOW) - brighter) * inside
        x, y = window_mean(torch.cat([across * off, down * off]), _WINDOW)
        step = torch.stack([xy * y - yy * x, xy * x - xx * y]) / determinant
        step = step.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        motion = window_mean(motion + step, 3)
    return motion
