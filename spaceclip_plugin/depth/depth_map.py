"""DepthMap: what one image call of a host says about depth, and its ways out: points, pictures, files."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin._checks import size_hw
from spaceclip_plugin.depth.age import LiveAge
from spaceclip_plugin.depth.camera import (
    Intrinsics,
    IntrinsicsLike,
    back_project,
    intrinsics_of_whole_image,
    same_aspect,
)
from spaceclip_plugin.depth.colours import colorize_depth
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.photo import colours_at_pixels
from spaceclip_plugin.depth.writing import write_ply, write_png
from spaceclip_plugin.errors import ConfigError

if TYPE_CHECKING:
    from transformers.modeling_outputs import DepthEstimatorOutput

_MIN_DEPTH_M = 1e-6
_MAX_SPREAD = 30.0  # in ln depth: beyond any world, and finite


@dataclass(frozen=True, eq=False, repr=False)
class DepthMap:
    """Metric depth of a batch of images: what the tower saw in one image call.

    Example:
        >>> depth_m = torch.tensor([[[1.0, 2.0], [2.0, 0.0]]])
        >>> depth = DepthMap(depth_m, depth_m > 0, camera="wrist", frame=0, image_hw=(20, 20), trained=True)
        >>> depth
        DepthMap(1x2x2, median 2.00 m, 75 % valid, camera='wrist', frame=0, age=0, trained=True)
        >>> depth.points(Intrinsics(10.0, 10.0, 10.0, 10.0, (20, 20)))[depth.valid][0].tolist()
        [-0.5, -0.5, 1.0]

    Attributes:
        depth_m: (B, H, W) float32 metres along the optical axis, finite everywhere; means nothing where not `valid`.
        valid: (B, H, W) bool, False where there is no depth (padding, masked patches, what the tower never read).
        camera: its name, or None where the host does not tell.
        frame: number of the image call since attaching, from 0.
        image_hw: (H, W) of the image the tower saw, in pixels; `depth_m` covers that same image.
        trained: False where the head has random weights and the numbers mean nothing.
        uncertainty_m: (B, H, W) float32 standard deviation in metres, or None where the head gives none.
        step: number of the host step since attaching in which the tower saw the image, from 0.
        age: host steps that have gone by since, 0 is the newest; counted anew whenever it is asked for, so that a map
            that is kept grows older. A number given here stays what it is, and so does that of a deep or pickled copy.
        image_sizes: (H, W) in pixels of every image of a batch of several sizes, each in the upper left corner of
            `image_hw`; None where all are `image_hw`. Indexing cuts an image out.
        mapping: how the image the tower saw was made out of the camera's; None where that is not told. What it calls
            padding is not valid: depth and uncertainty are 0 there.
        unmapped: why there is no mapping although the host is known to pad its images; None where there is one, or
            nothing is known. `points` then take no `Intrinsics`: they would be of another image.

    Raises:
        ConfigError: shapes, dtypes or devices disagree, a value is not finite, or a valid depth is negative.
    """

    depth_m: Tensor
    valid: Tensor
    camera: str | None
    frame: int
    image_hw: tuple[int, int]
    trained: bool
    uncertainty_m: Tensor | None = None
    step: int = 0
    age: LiveAge = LiveAge()  # noqa: RUF009 - one for all maps: it holds nothing itself
    image_sizes: tuple[tuple[int, int], ...] | None = None
    mapping: ImageMapping | None = None
    unmapped: str | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.depth_m.shape)
        if len(shape) != 3 or min(shape[1:]) < 1:
            raise ConfigError(f"depth_m is (B, H, W) with H, W of at least 1, got shape {shape}")
        self._set(image_hw=size_hw("image_hw", self.image_hw))
        for name, dtype in (("depth_m", torch.float32), ("valid", torch.bool), ("uncertainty_m", torch.float32)):
            values: Tensor | None = getattr(self, name)
            expected = (shape, dtype, self.depth_m.device)
            if values is not None and (given := (tuple(values.shape), values.dtype, values.device)) != expected:
                raise ConfigError(
                    f"{name} must have shape {shape}, {dtype}, on {expected[2]}; got {given[0]}, {given[1]}, "
                    f"on {given[2]}"
                )
        if self.image_sizes is not None and len(self.image_sizes) != shape[0]:
            raise ConfigError(f"image_sizes has {len(self.image_sizes)} entries for {shape[0]} images")
        self._check_values()
        if self.mapping is not None:
            self._take(self.mapping)

    def _check_values(self) -> None:
        maps = [self.depth_m] if self.uncertainty_m is None else [self.depth_m, self.uncertainty_m]
        # The smallest and largest value tell of any other, NaN included: one pass and one question to the device.
        extremes = [extreme for values in maps if len(values) for extreme in values.aminmax()]
        if not extremes or bool(((found := torch.stack(extremes)) >= 0).logical_and_(found < math.inf).all()):
            return
        sane = torch.isfinite(self.depth_m) & ((self.depth_m >= 0) | ~self.valid)
        if self.uncertainty_m is not None:
            sane &= torch.isfinite(self.uncertainty_m) & (self.uncertainty_m >= 0)
        if not sane.all():
            raise ConfigError(
                f"{int((~sane).sum())} of {sane.numel()} pixels are NaN or infinite, or negative where valid; "
                "mark pixels without depth in `valid` and give them depth 0"
            )

    def _take(self, mapping: ImageMapping) -> None:
        """Make that the mapping, and empty its padding; of a new object only."""
        self._check_mapping(mapping)
        self._set(mapping=mapping, unmapped=None, **self._each(mapping.without_padding))

    def _check_mapping(self, mapping: ImageMapping) -> None:
        if self.image_sizes or mapping.tower_hw != self.image_hw:
            several = " and several sizes; give one of each of its images, depth[i]" if self.image_sizes else ""
            raise ConfigError(
                f"the mapping is to a tower image of {mapping.tower_hw}, the depth is of {self.image_hw}{several}"
            )

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Depth, mask and uncertainty, if there is one, by the names of their fields, all changed alike."""
        maps = {name: getattr(self, name) for name in ("depth_m", "valid", "uncertainty_m")}
        return {name: change(values) for name, values in maps.items() if values is not None}

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            object.__setattr__(self, name, value)

    def _with(self, **changes: Any) -> DepthMap:
        """The same depth with other fields, unchecked: `replace` would look at every pixel again."""
        changed = copy.copy(self)
        changed._set(**changes)
        return changed

    def __len__(self) -> int:
        """Number of images, B."""
        return len(self.depth_m)

    def __getitem__(self, index: int) -> DepthMap:
        """The depth of one image, as a batch of one of its own size; shares memory with the whole.

        Raises:
            IndexError: there is no such image.
        """
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"image {index} of a depth map of {size}")
        index %= size
        image_hw = self.image_hw if self.image_sizes is None else self.image_sizes[index]
        rows, columns = (
            slice(max(1, round(count * side / whole)))
            for count, side, whole in zip(self.depth_m.shape[1:], image_hw, self.image_hw, strict=True)
        )
        own = (slice(index, index + 1), rows, columns)
        return self._with(image_hw=image_hw, image_sizes=None, **self._each(lambda values: values[own]))

    def __iter__(self) -> Iterator[DepthMap]:
        """One batch of one after another."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        shape = "x".join(str(side) for side in self.depth_m.shape)
        depth = self.depth_m[self.valid]
        median = f"median {depth.median():.2f} m" if depth.numel() else "no depth"
        share = 100 * depth.numel() / max(1, self.valid.numel())
        name = f"camera={self.camera!r}, frame={self.frame}, age={self.age}, trained={self.trained}"
        return f"DepthMap({shape}, {median}, {share:.0f} % valid, {name})"

    def to(self, device: torch.device | str) -> DepthMap:
        """The same depth on another device."""
        return replace(self, **self._each(lambda values: values.to(device)))

    def relabelled(self, *, camera: str | None = None, age: int | None = None) -> DepthMap:
        """The same depth under a camera's name or another age; shares memory, and what is None stays.

        An age that is a number stays what it is, unless it is one of `HostSteps.age_of`, which counts on.
        """
        given = {"camera": camera, "age": age}
        return self._with(**{name: value for name, value in given.items() if value is not None})

    def with_mapping(self, mapping: ImageMapping) -> DepthMap:
        """The same depth, told how the tower's image was made out of the camera's; its padding is not valid any more.

        Raises:
            ConfigError: it is to a tower image of another size, or this is depth of several sizes.
        """
        mapped = self._with()
        mapped._take(mapping)
        return mapped

    def in_camera(self, mapping: ImageMapping | None = None, *, size: tuple[int, int] | None = None) -> DepthMap:
        """The same depth over the camera's image, whatever the host did to it before its tower.

        Depth is interpolated within surfaces and never between them.

        Args:
            mapping: from the camera's image to the tower's; the depth map's own if None.
            size: (H, W) of the depth; that of the camera's image if None.

        Returns:
            A depth map whose `image_hw` is the camera's; what the tower was not shown is not `valid`. Its `points`
            take intrinsics of the camera, and refuse those of another image.

        Raises:
            ConfigError: there is no mapping, it is to a tower image of another size, this is depth of several sizes, or
                an impossible size.
        """
        mapping = self.mapping if mapping is None else mapping
        if mapping is None:
            raise ConfigError(
                self.unmapped
                or "this depth map does not tell how the tower's image was made out of the camera's; give its "
                "ImageMapping, such as ImageMapping.letterboxed(camera_hw, depth.image_hw)"
            )
        self._check_mapping(mapping)
        map_hw = (self.valid.shape[1], self.valid.shape[2])
        known = self.valid & mapping.valid_tower_pixels(map_hw, device=self.valid.device)
        places = mapping.places(mapping.camera_hw if size is None else size, self.depth_m)
        smooth = places.on_one_surface(self.depth_m, known)
        valid = places.nearest(known) & places.shown
        sd_m = self.uncertainty_m
        return replace(
            self,
            depth_m=places.either(self.depth_m, smooth) * valid,
            valid=valid,
            uncertainty_m=None if sd_m is None else places.either(sd_m, smooth) * valid,
            image_hw=mapping.camera_hw,
            mapping=ImageMapping.stretched(mapping.camera_hw, mapping.camera_hw),
        )

    def to_transformers(self) -> DepthEstimatorOutput:
        """The depth as transformers' depth models return it: `predicted_depth` is `depth_m`, sharing memory.

        There is no mask in that class: pixels that are not `valid` keep the finite number `depth_m` holds there, which
        means nothing (0 in padding and in what the tower never read).
        """
        from transformers.modeling_outputs import DepthEstimatorOutput

        return DepthEstimatorOutput(predicted_depth=self.depth_m)

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Nearest and farthest metres between which the true depth lies with probability `level`, (B, H, W) each.

        The logarithm of the depth is taken to err as a Laplace distribution of standard deviation
        `uncertainty_m / depth_m`: that is what heads are trained and calibrated for.

        Raises:
            ConfigError: the head gives no uncertainty, or `level` is not between 0 and 1.
        """
        if self.uncertainty_m is None:
            raise ConfigError("this head gives no uncertainty; a head trained with uncertainty=True does")
        relative = self.uncertainty_m / self.depth_m.clamp_min(_MIN_DEPTH_M)
        spread = (interval_factor(level) * relative).clamp_max(_MAX_SPREAD)
        return self.depth_m * (-spread).exp(), self.depth_m * spread.exp()

    def points(self, intrinsics: IntrinsicsLike) -> Tensor:
        """Every pixel as a point in the camera frame; select with `valid`, for padding is no point of the scene.

        Args:
            intrinsics: of the camera's image where the depth map has a `mapping`, else of the image the tower saw
                (where the host crops or pads, see `in_camera`): `Intrinsics` at any resolution of it, rescaled here,
                or a 3x3 matrix K. A matrix carries no image size: it is taken in pixels of the camera's image
                (`camera_hw`) or, without a `mapping`, of this depth map's own H x W, and refused where its principal
                point is not near the middle of that. `Intrinsics.from_matrix` says the size, and takes any.

        Returns:
            (B, H, W, 3) float32 metres: x right, y down, z forward.

        Raises:
            ConfigError: not intrinsics of a pinhole camera without skew, a matrix of another size, a batch of several
                sizes (take one image), or those of a camera whose image the host pads nobody knows how (`unmapped`).
        """
        if self.image_sizes is not None:
            raise ConfigError("images of several sizes have no camera in common; pick one: depth[i].points(...)")
        return back_project(self.depth_m, self.tower_intrinsics(intrinsics))

    def tower_intrinsics(self, intrinsics: IntrinsicsLike) -> Intrinsics:
        """`Intrinsics` of the tower's image from what `points` takes, with the same errors."""
        hw = (self.depth_m.shape[1], self.depth_m.shape[2])
        # A matrix of pixels in another aspect ratio than the tower's can only be the camera's.
        if self.unmapped is not None and (isinstance(intrinsics, Intrinsics) or not same_aspect(hw, self.image_hw)):
            raise ConfigError(self.unmapped)
        if not isinstance(intrinsics, Intrinsics):
            intrinsics = intrinsics_of_whole_image(intrinsics, hw if self.mapping is None else self.mapping.camera_hw)
        return intrinsics if self.mapping is None else self.mapping.to_tower(intrinsics)

    def colorize(self, *, depth_range_m: tuple[float, float] | None = None) -> npt.NDArray[np.uint8]:
        """Depth as colour: near warm, far cool, invalid dark grey.

        Args:
            depth_range_m: (near, far) at the ends of the colour map; None: what shows the whole batch well. Give it
                where pictures are to be compared.

        Returns:
            (B, H, W, 3) uint8 RGB.

        Raises:
            ConfigError: the range is not finite with 0 <= near < far.
        """
        return colorize_depth(to_numpy(self.depth_m), to_numpy(self.valid), depth_range_m=depth_range_m)

    def save_png16(self, path: str | os.PathLike[str], *, replace: bool = True) -> None:
        """Write a 16-bit PNG of whole millimetres, 0 where invalid (the encoding of NYU, LeRobot and ROS 16UC1).

        The encoding ends at 65.535 m: what lies beyond is written as 0, invalid; so is depth under half a millimetre.
        The file says that its rows are upright as they are (EXIF orientation 1).

        Args:
            path, replace: as for `write_png`.

        Raises:
            ConfigError: the map holds more than one image, or see `write_png`.
            OSError: the disk refuses the write.
        """
        check_single(self, "save_png16")
        millimetres = np.rint(to_numpy(self.depth_m[0]).astype(np.float64) * 1000)
        known = to_numpy(self.valid[0]) & (millimetres <= np.iinfo(np.uint16).max)
        write_png(path, np.where(known, millimetres, 0).astype(np.uint16), replace=replace)

    def save_ply(
        self,
        path: str | os.PathLike[str],
        intrinsics: IntrinsicsLike,
        *,
        image: Tensor | npt.NDArray[np.uint8] | None = None,
        replace: bool = True,
    ) -> None:
        """Write the valid points as a binary little-endian PLY: x y z in metres, and red green blue with an image.

        Args:
            path, replace: as for `write_png`.
            intrinsics: as for `points`.
            image: (H', W', 3) uint8 RGB of the same image, at any resolution; the pixel at each point's centre is
                taken. With a `mapping` it may be the camera's image or the tower's; its size says which.

        Raises:
            ConfigError: the map holds more than one image, an argument is not as above, or without `replace` something
                is at `path`.
            OSError: the disk refuses the write.
        """
        check_single(self, "save_ply")
        valid = to_numpy(self.valid[0])
        points = to_numpy(self.points(intrinsics)[0])[valid]
        hw = (valid.shape[0], valid.shape[1])
        colours = None if image is None else colours_at_pixels(image, hw, self.mapping)[valid]
        write_ply(path, points, colours, trained=self.trained, replace=replace)


def check_single(depth_map: DepthMap, what: str) -> None:
    """Raise ConfigError for a batch where `what` takes the depth of one image."""
    if len(depth_map) != 1:
        raise ConfigError(f"{what} takes one image, this depth map holds {len(depth_map)}; pick one: depth[i]")


def interval_factor(level: float) -> float:
    """Half the width, in standard deviations, of a Laplace distribution's central interval of that probability."""
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval is a probability between 0 and 1, got {level!r}")
    return -math.log1p(-level) / math.sqrt(2)


def to_numpy(values: Tensor) -> npt.NDArray[Any]:
    """The values on the CPU."""
    return values.detach().cpu().numpy()
