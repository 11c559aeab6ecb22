"""A running scale of a camera's depth, from whatever a robot knows, weighed against what the head itself is worth.

The log of what predicted depth lacks at a pixel is modelled as the sum of independent Gaussian processes: the camera's
scale, which stays; the scene's, which changes in time; and the head's local error, which is alike at pixels that are
near and at a similar depth. Known depth tells their sum (Rasmussen and Williams 2006, section 2.2; kriging).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spaceclip_plugin._checks import real, shown
from spaceclip_plugin.depth.depth_map import ASSUMED, KNOWN, UNKNOWN, DepthMap
from spaceclip_plugin.depth.error_shares import error_shares
from spaceclip_plugin.depth.exports import check_single
from spaceclip_plugin.depth.robust_fit import largest_cluster
from spaceclip_plugin.depth.scale_evidence import Evidence, KnownDepth
from spaceclip_plugin.depth.strangeness import strange_sd
from spaceclip_plugin.errors import ConfigError, DataError

_COLUMNS = ("u", "v", "log_predicted", "log_known", "local_sd", "sd", "prior_sd", "step", "frame")
_U, _V, _PREDICTED, _KNOWN, _LOCAL, _NOISE, _PRIOR, _STEP, _FRAME = range(len(_COLUMNS))
# A head's errors in log depth on images as it was trained on, measured on NYU: of a scene as a whole, and beside that
# of a pixel, where the head gives no uncertainty. What a prior has beyond the first is the camera's.
_SCENE, _LOCAL_SD, _LEAST_LOCAL_SD = 0.14, 0.23, 0.03
_LENS = 0.4  # of log focal lengths of robots' cameras, where the head assumes one
# Local errors correlate by exp(-d / length), d in sides of the image and in log predicted depth, measured likewise; a
# share of their variance is a pixel's own.
_ACROSS, _IN_DEPTH, _OWN = 0.5, 0.6, 0.1
_OTHER_VIEW = 0.3  # the same in another image
_SAME_PLACE = 0.95
_HALF_WIDTH, _GATE = 2.5, 3.5  # in standard deviations
_HEAVY_TAILS = 4.0  # degrees of freedom of Student's t
_ROUNDS = 5
_SAMPLES_OF_ONE, _SAMPLES = 32, 256
_PIXELS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Verdict:
    """What a `ScaleFilter` made of a piece of evidence.

    Example:
        >>> Verdict(0, 1, "the evidence asks for a scale of 3.28").refused
        1

    Attributes:
        used: how many pixels with known depth count.
        refused: how many do not.
        reason: why not, with counts; empty where all are used.
    """

    used: int
    refused: int
    reason: str = ""


class ScaleFilter:
    """The scale of one camera's depth from what a robot knows, its certainty, and depth brought to it.

    It starts at the head's own prior, 1, and moves as far as evidence is worth: at one pixel depth errs more by what is
    seen there than by the scale of the whole image. Pixels near each other, and the same view again, tell little more
    than one. Evidence that contradicts itself or the prior is refused, and changes nothing.

    Example:
        >>> depth_m = torch.full((1, 4, 6), 2.0)
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(4, 6), trained=True)
        >>> scale = ScaleFilter()
        >>> scale.observe(depth, Ranges(torch.tensor([[3.0, 2.0]]), torch.tensor([2.5])))
        Verdict(used=1, refused=0, reason='')
        >>> 1.05 < scale.scale < 1.1  # one range is not believed as it is
        True
        >>> scale.observe(depth, Ranges(torch.tensor([[3.0, 2.0]]), torch.tensor([8.2]))).used  # feet
        0

    Args:
        prior_sd: standard deviation of the log of the scale before any evidence. The default is that of heads on images
            as they were trained on. Where the depth map tells that its lens is assumed or its look unfamiliar, it is
            wider; where neither is told and the camera is of another kind, give more, such as 1.0.
        memory_steps: host steps (`DepthMap.step`) after which a scene's part of the scale, 0.14, is correlated by 0.37
            with what it was; the rest of `prior_sd` is the camera's, and stays.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, prior_sd: float = _SCENE, memory_steps: float = 30.0) -> None:
        self.prior_sd = real("prior_sd", prior_sd, 1e-3, 3.0)
        self.memory_steps = real("memory_steps", memory_steps, 1e-3, math.inf)
        self.reset()

    def reset(self) -> None:
        """Forget all evidence, and the camera: after a cut, in a new place, or when attached anew."""
        self._camera: str | None = None
        self._lens = UNKNOWN
        self._samples = torch.zeros(0, len(_COLUMNS), dtype=torch.float64)
        self._solved: _Solved | None = None

    @property
    def scale(self) -> float:
        """The factor that brings the depth that was observed last to true metres."""
        return math.exp(self._last()[0])

    @property
    def log_sd(self) -> float:
        """Standard deviation of the logarithm of `scale`."""
        return math.sqrt(self._last()[1])

    def observe(self, depth: DepthMap, evidence: Evidence) -> Verdict:
        """Weigh one piece of evidence about one image; several about an image may come in any order.

        Args:
            depth: of one image, as the head gives it and not as `apply` does; all but ranges need its `intrinsics`.
            evidence: `Ranges`, `Contacts`, `PlaneSeen`, `CameraHeight` or `KnownObject`.

        Raises:
            ConfigError: depth of several images or of another camera than before, no intrinsics where needed, a mask of
                another size, or what is no evidence.
        """
        self._check(depth)
        if not isinstance(evidence, Evidence):
            raise ConfigError(f"evidence is Ranges, Contacts, PlaneSeen and so on, got {shown(evidence)}")
        try:
            known = evidence.known_depth(depth)
        except DataError as error:
            return Verdict(0, 0, str(error))
        samples, left_out, used = self._samples_of(depth, known), dict(known.left_out), 0
        if len(samples):
            fits = self._fitting(samples)
            if isinstance(fits, str):
                return Verdict(0, len(samples) + sum(left_out.values()), fits)
            used = int(fits.sum())
            left_out["far from what the others say"] = len(samples) - used
            self._take(samples[fits])
            self._camera, self._lens = depth.camera, depth.lens
        refused = sum(left_out.values())
        reason = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
        return Verdict(used, refused, reason if used or refused else "none was given")

    def apply(self, depth: DepthMap, *, near_evidence: bool = True) -> DepthMap:
        """The depth at the scale believed in its step, and nearer to the evidence about this very image.

        Args:
            depth: of one image, as the head gives it.
            near_evidence: whether pixels near known depth, in the image and in depth, follow it further than by the
                scale of the whole.

        Returns:
            Its uncertainty holds what is left unknown of the scale, and all of the head's local error. Once there is
            evidence, metres of a camera that the head assumed are measured ones: `lens` is "unknown", and `points` of
            given intrinsics scale them no more.

        Raises:
            ConfigError: depth of several images, or of another camera than was observed.
        """
        self._check(depth)
        log_scale, variance = self._at(depth.step, self._prior_of(depth))
        local, of_scale = self._shares(depth.depth_m, depth.uncertainty_m, _strange_sd(depth))
        log_factor = torch.full_like(depth.depth_m, log_scale)
        if near_evidence:
            log_factor += self._near_evidence(depth, log_scale, local)
        scaled_m, sd_m = depth.depth_m * log_factor.exp(), depth.uncertainty_m
        if sd_m is not None:
            sd_m = scaled_m * (local.square() + of_scale * variance / self._scene_sd**2).sqrt()
        # As for an `Alignment`: metres that were measured do not hang on a lens any more that the head assumed.
        measured = depth.intrinsics is None and len(self._samples) > 0
        focal_length = None if measured else depth.focal_length
        return dataclasses.replace(depth, depth_m=scaled_m, uncertainty_m=sd_m, focal_length=focal_length)

    def state_dict(self) -> dict[str, Any]:
        """The evidence held, for JSON; settings are the constructor's."""
        return {"camera": self._camera, "lens": self._lens, "samples": self._samples.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, from a `state_dict`.

        Raises:
            ConfigError: it is none; the filter stays what it was.
        """
        keys = set(state) if isinstance(state, Mapping) else set()
        named = keys == {"camera", "lens", "samples"} and isinstance(state["camera"], (str, type(None)))
        if not named or state["lens"] not in (KNOWN, ASSUMED, UNKNOWN):
            raise ConfigError(f"a filter's state is its state_dict(), camera, lens and samples; got {shown(state)}")
        try:
            samples = torch.tensor(state["samples"], dtype=torch.float64).reshape(-1, len(_COLUMNS))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"a state's samples are rows of {', '.join(_COLUMNS)}: {error}") from error
        sane = samples.isfinite().all() and (samples[:, [_LOCAL, _PRIOR]] > 0).all() and (samples[:, _NOISE] >= 0).all()
        if not sane or len(samples) > _SAMPLES:
            raise ConfigError(f"a state's samples are up to {_SAMPLES} rows, finite, with positive deviations")
        self.reset()
        self._camera, self._lens, self._samples = state["camera"], state["lens"], samples

    def _prior_of(self, depth: DepthMap) -> float:
        """Standard deviation of the log scale of such a map before any evidence."""
        lens = _LENS if depth.lens == ASSUMED else 0.0
        return math.hypot(self.prior_sd, lens, _strange_sd(depth))

    @property
    def _scene_sd(self) -> float:
        return min(self.prior_sd, _SCENE)

    def _last(self) -> tuple[float, float]:
        """Log scale and its variance in the image that was observed last."""
        if not len(self._samples):
            return 0.0, self.prior_sd**2
        return self._at(float(self._samples[-1, _STEP]), float(self._samples[-1, _PRIOR]))

    def _check(self, depth: DepthMap) -> None:
        check_single(depth, "a scale filter")
        if len(self._samples) and (depth.camera, depth.lens) != (self._camera, self._lens):
            raise ConfigError(
                f"this filter holds the scale of camera {self._camera!r} (lens {self._lens}), the depth is of "
                f"{depth.camera!r} (lens {depth.lens}); keep one ScaleFilter for each camera, and give "
                "its intrinsics for observe and apply alike"
            )

    def _shares(self, depth_m: Tensor, sd_m: Tensor | None, strange_sd: float) -> tuple[Tensor, Tensor]:
        """Standard deviation of the head's local error in log depth, and the variance that is the scene's scale's."""
        if sd_m is None:
            return torch.full_like(depth_m, _LOCAL_SD), torch.full_like(depth_m, self._scene_sd**2)
        variance = (sd_m / depth_m.clamp_min(1e-6)).square()
        local, of_scale = error_shares(variance, strange_sd=strange_sd, scene_sd=self._scene_sd)
        return local.sqrt().clamp_min(_LEAST_LOCAL_SD), of_scale

    def _samples_of(self, depth: DepthMap, known: KnownDepth) -> Tensor:
        """A row for every pixel with known depth, (N, columns) float64."""
        rows, columns = known.rows, known.columns
        predicted = depth.depth_m[0].detach().cpu().double()[rows, columns]
        sd_m = depth.uncertainty_m
        sd_m = None if sd_m is None else sd_m[0].detach().cpu().double()[rows, columns]
        local, _ = self._shares(predicted, sd_m, _strange_sd(depth))
        u, v = _places(depth.depth_m.shape[1:], depth.image_hw)
        same = (known.sd, self._prior_of(depth), depth.step, depth.frame)
        rest = [torch.full_like(predicted, float(value)) for value in same]
        return torch.stack([u[columns], v[rows], predicted.log(), known.depth_m.log(), local, *rest], dim=1)

    def _fitting(self, samples: Tensor) -> Tensor | str:
        """(N,) bool, which agree with each other; or why none is believed."""
        ratios = samples[:, _KNOWN] - samples[:, _PREDICTED]
        sd = float((samples[:, _LOCAL].square() + samples[:, _NOISE].square()).sqrt().median())
        fits = largest_cluster(ratios, _HALF_WIDTH * sd)
        if 2 * int(fits.sum()) <= len(fits):
            return f"at most {int(fits.sum())} of {len(fits)} agree at any one scale, more than half must"
        centre, off = float(ratios[fits].median()), math.hypot(sd, float(samples[0, _PRIOR]))
        if abs(centre) > _GATE * off:
            return (
                f"the evidence asks for a scale of {math.exp(centre):.3g}, {abs(centre) / off:.1f} standard deviations "
                "from what the head is believed to give; check its unit, or give the filter a larger prior_sd"
            )
        return fits

    def _take(self, samples: Tensor) -> None:
        """Keep some of the new ones, and of the old ones those that they do not repeat."""
        few = min(len(samples), _SAMPLES_OF_ONE)
        new = samples[torch.linspace(0, len(samples) - 1, few, dtype=torch.float64).round().long()]
        repeated = (_alike(self._samples, new) > _SAME_PLACE).any(dim=1)
        self._samples = torch.cat([self._samples[~repeated], new])[-_SAMPLES:]
        self._solved = None

    def _at(self, step: float, prior_sd: float) -> tuple[float, float]:
        """Mean and variance of the log scale in that step."""
        if not len(self._samples):
            return 0.0, prior_sd**2
        solved = self._solution()
        prior = torch.tensor([prior_sd], dtype=torch.float64)
        shared = self._shared(prior, torch.full_like(prior, step), self._samples)[0]
        left = prior_sd**2 - float(shared @ solved.inverse @ shared)
        return float(shared @ solved.weights), max(0.0, left)

    def _shared(self, prior: Tensor, steps: Tensor, others: Tensor) -> Tensor:
        """(N, M) covariance of the log scale of images with these priors, in these steps, and of other samples."""
        scene, other_scene = (sd.clamp_max(self._scene_sd) for sd in (prior, others[:, _PRIOR]))
        camera = (prior.square() - scene.square()).sqrt()
        other_camera = (others[:, _PRIOR].square() - other_scene.square()).sqrt()
        since = (steps[:, None] - others[:, _STEP]).abs()
        fading = (-since / self.memory_steps).exp()
        return torch.outer(camera, other_camera) + torch.outer(scene, other_scene) * fading

    def _solution(self) -> _Solved:
        """What all samples say together; wrong ones count less, by reweighting."""
        if self._solved is None:
            samples = self._samples
            ratios, local = samples[:, _KNOWN] - samples[:, _PREDICTED], samples[:, _LOCAL]
            likely = self._shared(samples[:, _PRIOR], samples[:, _STEP], samples) + _of_local_errors(samples)
            wrong = torch.zeros_like(local)  # variance beyond what is likely
            for _ in range(_ROUNDS):
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(likely + wrong.diag()))
                weights = inverse @ ratios
                # How far each is from what the others say (leave one out), and how far it may be.
                off, variance = weights / inverse.diag(), 1 / inverse.diag() - wrong
                tails = (off.square() / variance + _HEAVY_TAILS) / (_HEAVY_TAILS + 1)
                wrong = variance * (tails - 1).clamp_min(0.0)
            self._solved = _Solved(inverse, weights, wrong)
        return self._solved

    def _near_evidence(self, depth: DepthMap, log_scale: float, local: Tensor) -> Tensor:
        """(1, h, w) local error in log depth, as far as evidence about this image tells it at that scale."""
        here = (self._samples[:, _STEP] == depth.step) & (self._samples[:, _FRAME] == depth.frame)
        if not here.any():
            return torch.zeros_like(local)
        samples, wrong = self._samples[here], self._solution().wrong[here]
        off = samples[:, _KNOWN] - samples[:, _PREDICTED] - log_scale
        weights = torch.linalg.solve(_of_local_errors(samples) + wrong.diag(), off) * samples[:, _LOCAL] * (1 - _OWN)
        samples, weights = samples.to(local), weights.to(local)
        u, v = (axis.to(local) for axis in _places(depth.depth_m.shape[1:], depth.image_hw))
        grid = torch.stack([*torch.meshgrid(u, v, indexing="xy"), depth.depth_m[0].clamp_min(1e-6).log()], dim=-1)
        found = [_alike(some, samples) @ weights for some in torch.split(grid.reshape(-1, 3), _PIXELS_AT_ONCE)]
        return torch.cat(found).reshape(local.shape) * local


@dataclass(frozen=True, eq=False)
class _Solved:
    """Of the samples: the inverse of their covariance, its product with what they say, and (N,) variance that each is
    found to have beyond what is likely."""

    inverse: Tensor
    weights: Tensor
    wrong: Tensor


def _of_local_errors(samples: Tensor) -> Tensor:
    """(N, N) covariance of samples by the head's local errors and by the sensors'."""
    local, image = samples[:, _LOCAL], samples[:, _STEP:]
    same_image = (image[:, None] == image).all(dim=-1)
    alike = (1 - _OWN) * _alike(samples, samples) * torch.where(same_image, 1.0, _OTHER_VIEW)
    own = _OWN * local.square() + samples[:, _NOISE].square()
    return alike * torch.outer(local, local) + own.diag()


def _strange_sd(depth: DepthMap) -> float:
    """Standard deviation in log depth that a strange look of the one image adds to the head's own."""
    return 0.0 if depth.familiarity is None else float(strange_sd(depth.familiarity)[0])


def _places(map_hw: Sequence[int], image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """u of every column and v of every row, float64 in longer sides of the image."""
    longer = max(image_hw)
    v, u = (
        (torch.arange(count, dtype=torch.float64) + 0.5) * (side / (count * longer))
        for count, side in zip(map_hw, image_hw, strict=True)
    )
    return u, v


def _alike(some: Tensor, others: Tensor) -> Tensor:
    """(N, M) correlation of local errors at samples, apart from what is a pixel's own."""
    exact = "donot_use_mm_for_euclid_dist"
    across = torch.cdist(some[:, :_PREDICTED], others[:, :_PREDICTED], compute_mode=exact)
    in_depth = (some[:, None, _PREDICTED] - others[None, :, _PREDICTED]).abs()
    return (-across / _ACROSS - in_depth / _IN_DEPTH).exp()
