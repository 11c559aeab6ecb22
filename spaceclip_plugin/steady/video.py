"""One camera's video: what is kept of its frames, and how the newest goes on from them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.steady.following import Found, Pair, Place, Told
from spaceclip_plugin.steady.fusion import FusedDepth, GridDepth, fused, offset_of, refined
from spaceclip_plugin.steady.grid import Cells, as_array, median
from spaceclip_plugin.steady.likeness import Image
from spaceclip_plugin.steady.look import Look
from spaceclip_plugin.steady.motion import Rays
from spaceclip_plugin.steady.parallax import Parallax, detail_of
from spaceclip_plugin.steady.pixels import PixelDepth
from spaceclip_plugin.steady.scale_belief import STEPS, ScaleBelief

CAMERA = "another camera, lens or image size"
PAUSED = "the stream paused, or went back"
CUT = "the image changed at once"
NO_DEPTH = "there is too little depth to go on from"

_SLOWEST = 0.1  # weight of a new frame's scale, after many
_WEIGHT = 30.0  # of what images say of the scale, in ln likelihood by unit of mismatch
_KEY_BASELINE, _KEY_TURN = 0.02, 0.35  # of the depth; radians: how far a camera must have moved to tell of the scale
_LEAST_BASELINE, _MOST_TURN = 0.005, 1.0  # likewise: to tell of it at all, and to see the same things still
_FEW_PROOFS, _PROOFS = 2, 4
_LONGEST_PAUSE = 300  # host steps
_LEAST_SCALE_VARIANCE = 1e-4


@dataclass(frozen=True, eq=False)
class View:
    """A frame of a video, before anything earlier has a say in it.

    Attributes:
        camera: all that must not change within a video, in words.
        step: host step in which it was taken.
        image: what is seen.
        place: where the camera was, (4, 4) camera to world; None: not known.
        pixels: its depth, as the head gives it.
        grid: the same on the image's grid.
        rays: of the grid; None where the camera's lens is not known.
    """

    camera: str
    step: int
    image: Image
    place: Place | None
    pixels: PixelDepth
    grid: GridDepth
    rays: Rays | None

    @classmethod
    def several(cls, depth: DepthMap, look: Look, places: Iterable[Place | None]) -> Iterator[Self]:
        """Those of a map, a look and a place of each image."""
        grid_hw, lens = look.grid_hw, depth.intrinsics
        camera = _in_words(depth.image_hw, (1, *depth.depth_m.shape[1:]), grid_hw, lens, depth.mapping)
        rays = None if lens is None else Rays.of(lens, grid_hw)
        for image, place, pixels in zip(Image.several(look), places, PixelDepth.several(depth), strict=True):
            yield cls(camera, depth.step, image, place, pixels, GridDepth.of(pixels, grid_hw), rays)

    @cached_property
    def detail(self) -> Cells:
        """(1, h, w) its image without its local mean, which parallax is looked for in."""
        return detail_of(self.image.pattern.grey)

    @property
    def prior_sd(self) -> float:
        """Standard deviation of the scale of the head's depth, in ln depth, before anyone else tells of it."""
        return math.sqrt(max(self.grid.scale_variance, _LEAST_SCALE_VARIANCE))


@lru_cache(maxsize=32)
def _in_words(*of_camera: Hashable) -> str:
    return repr(of_camera)


@dataclass(eq=False)
class Video:
    """What is kept of one camera's video; it is of one scale, that of its head's depth on the whole.

    Attributes:
        camera: see `View.camera`.
        step: host step of the newest frame.
        image: of the newest frame.
        place: of its camera, where that is known.
        whole: what all frames say, where the newest sees it.
        fine_m: (H, W) what was given for the newest.
        frames: since it began.
        carried: share of the newest that earlier ones had a say in.
        belief: of the factor that `whole` is too large by.
        key: detail and place of the frame that later ones are compared with, to learn of the scale.
        doubt: why places are not believed; None where they are.
        owed: how many of them images must bear out first.
    """

    camera: str
    step: int
    image: Image
    place: Place | None
    whole: FusedDepth
    fine_m: Cells
    frames: int = 1
    carried: float = 0.0
    belief: ScaleBelief = field(default_factory=ScaleBelief)
    key: tuple[Cells, Place] | None = None
    doubt: str | None = None
    owed: int = 0

    @classmethod
    def begun(cls, view: View, belief: ScaleBelief | None = None) -> Self:
        """A video of one frame, and what is known of the scale from elsewhere."""
        whole = FusedDepth.alone(view.grid)
        fine_m = refined(view.pixels, view.grid, whole)
        kept = ScaleBelief() if belief is None else belief
        video = cls(view.camera, view.step, view.image, view.place, whole, fine_m, belief=kept)
        if view.place is not None:
            video.key = (view.detail, view.place)
        return video

    def scale(self, view: View, others: Iterable[ScaleBelief]) -> tuple[float, float]:
        """Mean and standard deviation of the ln factor that its depth is too large by."""
        return self.belief.moments(view.prior_sd, others)

    def go_on(self, view: View, others: Iterable[ScaleBelief]) -> tuple[str | None, str | None]:
        """Take the next frame, or return why it cannot and stay as it is; and why the camera's place is doubted.

        Args:
            view: of the frame.
            others: what other cameras of the rig have learnt of the scale.
        """
        if view.camera != self.camera:
            return CAMERA, None
        if not 0 <= view.step - self.step <= _LONGEST_PAUSE:
            return PAUSED, None
        found = self._found(view, self._scale_to_look_with(view, others))
        if found is None:
            return CUT, None
        offset = offset_of(found.earlier, view.grid)
        if offset is None:
            return NO_DEPTH, None
        self.frames += 1
        toward = max(1 / self.frames, _SLOWEST) * offset  # averaged over frames: none of them is the measure
        self.belief.shift(toward)
        self.whole, both = fused(found.earlier.scaled(toward), view.grid, offset - toward)
        self.carried = float(np.count_nonzero(both) / both.size)
        before = (self.fine_m * math.exp(toward), found.still) if found.rests else None
        self.fine_m = refined(view.pixels, view.grid, self.whole, before)
        self.image, self.step, self.place = view.image, view.step, view.place
        seen = self._parallax(view, self.whole.log_depth)
        if seen is not None and view.place is not None:
            self._learn(seen)
            self.key = (view.detail, view.place)
        # Where parallax bears places out, images that did not fit them told of the scale, which is known by now.
        if found.doubt is not None and (seen is None or seen.mismatch is None):
            self._disbelieve(found.doubt, proofs=_FEW_PROOFS)
        return None, None if view.place is None else self.doubt

    def _found(self, view: View, log_scale: float) -> Found | None:
        """Its depth as the next frame sees it, looked for in metres as far as they are known."""
        pair = Pair(self.image, view.image, self.whole.scaled(-log_scale), view.grid.scaled(-log_scale), view.rays)
        told = None
        if self.place is not None and view.place is not None and self.doubt is None:
            told = Told(self.place, view.place)
        found = pair.follow(told)
        return None if found is None else replace(found, earlier=found.earlier.scaled(log_scale))

    def _scale_to_look_with(self, view: View, others: Iterable[ScaleBelief]) -> float:
        """ln factor that its depth is taken to be too large by; before anything is known, by what this frame shows."""
        if self.belief.pieces == 0 and self.doubt is None:
            seen = self._parallax(view, view.grid.log_depth)
            if seen is not None and seen.mismatch is not None:
                first = ScaleBelief()
                first.learn(-_WEIGHT * seen.mismatch)
                return first.moments(view.prior_sd, others)[0]
        return self.scale(view, others)[0]

    def _parallax(self, view: View, log_depth: Cells) -> Parallax | None:
        """What the frame and the key frame tell of the scale and of the places; None where they are of one place."""
        if self.key is None or view.place is None or view.rays is None:
            return None
        key_detail, key_place = self.key
        back = Told(view.place, key_place)
        depth_m = math.exp(median(log_depth) - self.scale(view, ())[0])
        baseline = math.hypot(*back.onward.translation_m.tolist()) / depth_m
        turn = back.onward.angle()
        if baseline < _KEY_BASELINE and turn < _KEY_TURN:
            return None
        if baseline < _LEAST_BASELINE or turn > _MOST_TURN:
            return Parallax(None)
        details = view.detail, key_detail
        return Parallax.seen(details, view.rays, log_depth, back, self.belief.log_scales)

    def _learn(self, seen: Parallax) -> None:
        """Believe of the scale, and of the places, what parallax told."""
        if seen.doubt is not None:
            self._disbelieve(seen.doubt, proofs=_PROOFS)
        elif seen.mismatch is not None:
            self.owed = max(0, self.owed - 1)
            if self.owed == 0:
                self.doubt = None
                self.belief.learn(-_WEIGHT * seen.mismatch)

    def _disbelieve(self, doubt: str, *, proofs: int) -> None:
        """Use places no more until images bear several out; and forget the scale, which came from such places."""
        self.doubt, self.owed, self.belief = doubt, max(self.owed, proofs), ScaleBelief()

    def state_dict(self) -> dict[str, Any]:
        """Strings, numbers and tensors by name."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        arrays: dict[str, Any] = {
            "grey": self.image.grey,
            "tokens": self.image.tokens,
            "fine_m": self.fine_m,
            "place": self.place,
            "evidence": self.belief.evidence,
        }
        arrays |= {name: getattr(self.whole, name) for name in _OF_WHOLE}
        if self.key is not None:
            arrays["key_detail"], arrays["key_place"] = self.key
        state |= {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}
        state |= {"offset": self.belief.offset, "pieces": self.belief.pieces}
        return {name: value for name, value in state.items() if value is not None}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The video of a `state_dict`.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        arrays: dict[str, Any] = {name: as_array(value) for name, value in state.items() if isinstance(value, Tensor)}
        (height, width), evidence = arrays["grey"].shape[1:], arrays["evidence"]
        grids = [arrays[name] for name in _OF_WHOLE]
        if any(grid.shape != (height, width) for grid in grids) or evidence.shape != (STEPS,):
            raise ValueError("its tensors are not of one grid")
        belief = ScaleBelief()
        belief.evidence, belief.offset, belief.pieces = evidence, float(state["offset"]), int(state["pieces"])
        return cls(
            **{name: state[name] for name in _PLAIN if name not in _MAY_LACK},
            fine_m=arrays["fine_m"],
            place=arrays.get("place"),
            doubt=state.get("doubt"),
            image=Image(arrays["grey"], arrays["tokens"]),
            whole=FusedDepth(*grids),
            belief=belief,
            key=(arrays["key_detail"], arrays["key_place"]) if "key_detail" in arrays else None,
        )


_PLAIN = ("camera", "step", "frames", "carried", "doubt", "owed")
_MAY_LACK = ("doubt",)
_OF_WHOLE = ("log_depth", "variance", "known")
