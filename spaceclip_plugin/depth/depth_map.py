"""DepthMap: what one image call of a host says about depth, and its ways out: points, pictures, files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spaceclip_plugin._checks import size_hw
from spaceclip_plugin.depth.age import LiveAge
from spaceclip_plugin.depth.camera import (
    FocalLength,
    Intrinsics,
    IntrinsicsLike,
    are_alike,
    back_project,
    in_words,
    intrinsics_of_whole_image,
    lens_scale,
    same_aspect,
    same_lens,
)
from spaceclip_plugin.depth.exports import DepthExports
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.depth.interval import interval_of
from spaceclip_plugin.depth.steadiness import Steadiness, with_alone
from spaceclip_plugin.depth.values import check_values
from spaceclip_plugin.errors import ConfigError

KNOWN, ASSUMED, UNKNOWN = "known", "assumed", "unknown"
"""What `DepthMap.lens` may be."""
UNFAMILIAR = 0.05
"""The familiarity below which an image is called unfamiliar; one in twenty of those like the training's is."""


@dataclass(frozen=True, eq=False, repr=False)
class DepthMap(DepthExports):
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
        valid: (B, H, W) bool, False where there is no depth (padding, masked patches, what the tower never read, and
            where nothing is: see `empty`).
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
        intrinsics: of the image the tower saw, where its camera is known.
        focal_length: that the metres hold for, over the width and height of the image the tower saw: that of
            `intrinsics`, or the one the head assumes; None where the head does not tell. See `lens`.
        familiarity: (B,) float32 in [0, 1], the share of images like those of the training that look stranger to the
            head than this one; near 0 it knows nothing of the kind. None where the head cannot tell.
        empty: (B, H, W) float32 probability that nothing is there at any range, such as sky; pixels above a half are
            not `valid`. None where the head does not tell, and gives depth wherever it looked.
        steady: what earlier frames did for the depth of each image (`SteadyDepth`); empty where it is the frame's own.

    Raises:
        ConfigError: shapes, dtypes or devices disagree; a value is not finite or valid depth negative (`known_sane`).
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
    intrinsics: Intrinsics | None = None
    focal_length: FocalLength | None = None
    familiarity: Tensor | None = None
    empty: Tensor | None = None
    steady: tuple[Steadiness, ...] = ()
    known_sane: InitVar[bool] = False

    def __post_init__(self, known_sane: bool) -> None:
        shape = tuple(self.depth_m.shape)
        if len(shape) != 3 or min(shape[1:]) < 1:
            raise ConfigError(f"depth_m is (B, H, W) with H, W of at least 1, got shape {shape}")
        self._set(image_hw=size_hw("image_hw", self.image_hw))
        for name, values in self._each(lambda values: values).items():
            expected = (shape, torch.bool if name == "valid" else torch.float32, self.depth_m.device)
            if (given := (tuple(values.shape), values.dtype, values.device)) != expected:
                raise ConfigError(
                    f"{name} must have shape {shape}, {expected[1]}, on {expected[2]}; got {given[0]}, {given[1]}, "
                    f"on {given[2]}"
                )
        if self.image_sizes is not None and len(self.image_sizes) != shape[0]:
            raise ConfigError(f"image_sizes has {len(self.image_sizes)} entries for {shape[0]} images")
        if self.familiarity is not None and tuple(self.familiarity.shape) != shape[:1]:
            raise ConfigError(f"familiarity is one number for each of {shape[0]} images, got {self.familiarity!r}")
        if self.intrinsics is not None and self.intrinsics.image_hw != self.image_hw:
            raise ConfigError(
                f"intrinsics are of the image the tower saw, {self.image_hw}, got those of {self.intrinsics.image_hw}; "
                "see with_intrinsics"
            )
        if self.intrinsics and self.focal_length and not same_lens(self.focal_length, self.intrinsics.focal_length):
            raise ConfigError(
                f"metres of a lens {self.focal_length} are not those of {self.intrinsics}: with_intrinsics"
            )
        if not known_sane:
            others = [values for values in (self.uncertainty_m, self.empty) if values is not None]
            check_values(self.depth_m, others, self.valid)
        if self.mapping is not None:
            self._take(self.mapping)

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
        """The maps that there are, by the names of their fields, all changed alike."""
        maps = {name: getattr(self, name) for name in ("depth_m", "valid", "uncertainty_m", "empty")}
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
        return self._with(
            image_hw=image_hw,
            image_sizes=None,
            intrinsics=None if self.intrinsics is None else self.intrinsics.cropped(0, 0, image_hw),
            familiarity=None if self.familiarity is None else self.familiarity[index : index + 1],
            steady=self.steady[index : index + 1],
            **self._each(lambda values: values[own]),
        )

    def __iter__(self) -> Iterator[DepthMap]:
        """One batch of one after another."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        shape = "x".join(str(side) for side in self.depth_m.shape)
        depth = self.depth_m[self.valid]
        median = f"median {depth.median():.2f} m" if depth.numel() else "no depth"
        share = 100 * depth.numel() / max(1, self.valid.numel())
        name = f"camera={self.camera!r}, frame={self.frame}, age={self.age}, trained={self.trained}"
        lens = "" if self.lens == UNKNOWN else f", camera {self.lens}"
        seen = "" if self.familiarity is None else f", familiarity {' '.join(f'{x:.2f}' for x in self.familiarity)}"
        return f"DepthMap({shape}, {median}, {share:.0f} % valid{lens}{seen}, {name})"

    @property
    def lens(self) -> str:
        """Whose metres these are: those of its camera ("known"), of one as the head was trained for ("assumed"), or of
        one that the head does not tell ("unknown")."""
        if self.focal_length is None:
            return UNKNOWN
        return ASSUMED if self.intrinsics is None else KNOWN

    def to(self, device: torch.device | str) -> DepthMap:
        """The same depth on another device."""
        familiarity = None if self.familiarity is None else self.familiarity.to(device)
        return replace(self, familiarity=familiarity, **self._each(lambda values: values.to(device)))

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

    def with_familiarity(self, familiarity: Tensor, uncertainty_m: Tensor | None) -> DepthMap:
        """The same depth of images as familiar (B,) as said, and so uncertain (B, H, W) metres."""
        return self._with(familiarity=familiarity, uncertainty_m=uncertainty_m)

    def steadied(self, depth_m: Tensor, uncertainty_m: Tensor | None, steady: tuple[Steadiness, ...]) -> DepthMap:
        """The same images' depth as earlier frames have made it, in metres and as uncertain, (B, H, W) each."""
        return self._with(depth_m=depth_m, uncertainty_m=uncertainty_m, steady=steady)

    def with_intrinsics(self, intrinsics: IntrinsicsLike) -> DepthMap:
        """The same depth in metres of the camera with these intrinsics, which `points` then need no more.

        A head reads every image as if through the lens it was trained with. Through one twice as long everything looks
        twice as large, and is twice as far as it looks: depth and uncertainty take the ratio of the focal lengths
        (`lens_scale`). Where the head does not tell its own (`lens` is "unknown") the metres stay as they are.

        Args:
            intrinsics: as for `points`.

        Raises:
            ConfigError: see `points`; or this is depth of another camera already.

        Example:
            >>> depth_m = torch.full((1, 2, 2), 2.0)
            >>> seen = {"camera": "wrist", "frame": 0, "image_hw": (20, 20), "trained": True}
            >>> depth = DepthMap(depth_m, depth_m > 0, **seen, focal_length=(1.0, 1.0))
            >>> longer = depth.with_intrinsics(Intrinsics(30.0, 30.0, 10.0, 10.0, (20, 20)))
            >>> depth.lens, longer.lens, longer.depth_m[0, 0].tolist()
            ('assumed', 'known', [3.0, 3.0])
        """
        self._check_one_size()
        camera = self.tower_intrinsics(intrinsics).resized(self.image_hw)
        if self.intrinsics is not None and not are_alike(camera, self.intrinsics):
            raise ConfigError(
                f"this is depth of a camera with {in_words(self.intrinsics)}, and these intrinsics would be "
                f"{in_words(camera)} in the image its tower saw; give those it was read with, or none"
            )
        if self.intrinsics is not None or self.focal_length is None:
            return self._with(intrinsics=camera)
        scale = lens_scale(camera.focal_length, self.focal_length)
        lens = self._with(intrinsics=camera, focal_length=camera.focal_length)
        if scale == 1.0:
            return lens
        sd_m = None if self.uncertainty_m is None else self.uncertainty_m * scale
        return lens.steadied(self.depth_m * scale, sd_m, with_alone(self.steady, lambda alone_m: alone_m * scale))

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
        focal_length = self.focal_length
        if focal_length is not None:  # of the same rays, over the sides of another image
            focal_length = mapping.to_camera(Intrinsics.from_focal_length(focal_length, self.image_hw)).focal_length
        return replace(
            self,
            depth_m=places.either(self.depth_m, smooth) * valid,
            valid=valid,
            uncertainty_m=None if self.uncertainty_m is None else places.either(self.uncertainty_m, smooth) * valid,
            empty=None if self.empty is None else places.nearest(self.empty) * places.shown,
            steady=with_alone(self.steady, lambda alone_m: places.either(alone_m, smooth) * valid),
            image_hw=mapping.camera_hw,
            mapping=ImageMapping.stretched(mapping.camera_hw, mapping.camera_hw),
            intrinsics=None if self.intrinsics is None else mapping.to_camera(self.intrinsics),
            focal_length=focal_length,
        )

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Nearest and farthest metres between which the true depth lies with probability `level`, (B, H, W) each.

        The logarithm of the depth is taken to err as a Laplace distribution of standard deviation
        `uncertainty_m / depth_m`: that is what heads are trained and calibrated for.

        Raises:
            ConfigError: the head gives no uncertainty, or `level` is not between 0 and 1.
        """
        if self.uncertainty_m is None:
            raise ConfigError("this head gives no uncertainty; a head trained with uncertainty=True does")
        return interval_of(self.depth_m, self.uncertainty_m, level)

    def points(self, intrinsics: IntrinsicsLike | None = None, *, assumed: bool = False) -> Tensor:
        """Every pixel as a point in the camera frame; select with `valid`, for padding is no point of the scene.

        Args:
            intrinsics: of the camera's image where the depth map has a `mapping`, else of the image the tower saw
                (where the host crops or pads, see `in_camera`): `Intrinsics` at any resolution of it, rescaled here,
                or a 3x3 matrix K. A matrix carries no image size: it is taken in pixels of the camera's image
                (`camera_hw`) or, without a `mapping`, of this depth map's own H x W, and refused where its principal
                point is not near the middle (`Intrinsics.from_matrix` says the size). The points are in metres of that
                camera, see `with_intrinsics`. None: the depth map's own.
            assumed: where it has none, take the camera that the head assumes, with a centred principal point.

        Returns:
            (B, H, W, 3) float32 metres: x right, y down, z forward.

        Raises:
            ConfigError: no camera is known; not intrinsics of a pinhole camera without skew, those of another camera
                than the depth map's, a matrix of another size, a batch of several sizes (take one image), or those of
                a camera whose image the host pads nobody knows how (`unmapped`).
        """
        self._check_one_size()
        if intrinsics is not None:
            depth = self.with_intrinsics(intrinsics)
            return back_project(depth.depth_m, depth._own_camera(assumed=False))
        return back_project(self.depth_m, self._own_camera(assumed=assumed))

    def _own_camera(self, *, assumed: bool) -> Intrinsics:
        """Of the tower's image, as far as it is known."""
        if self.intrinsics is not None:
            return self.intrinsics
        if self.focal_length is not None and assumed:
            return Intrinsics.from_focal_length(self.focal_length, self.image_hw)
        told = "the head assumes one, points(assumed=True)" if self.focal_length else "the head does not tell its own"
        raise ConfigError(
            "the camera of this depth map is not known: give its intrinsics, here or where the head is attached, "
            f"attach_depth_head(…, cameras={{{self.camera or 'front'!r}: Intrinsics(…)}}); {told}"
        )

    def _check_one_size(self) -> None:
        if self.image_sizes is not None:
            raise ConfigError("images of several sizes have no camera in common; pick one: depth[i].points(...)")

    def tower_intrinsics(self, intrinsics: IntrinsicsLike) -> Intrinsics:
        """`Intrinsics` of the tower's image from what `points` takes, with the same errors."""
        hw = (self.depth_m.shape[1], self.depth_m.shape[2])
        # A matrix of pixels in another aspect ratio than the tower's can only be the camera's.
        if self.unmapped is not None and (isinstance(intrinsics, Intrinsics) or not same_aspect(hw, self.image_hw)):
            raise ConfigError(self.unmapped)
        if not isinstance(intrinsics, Intrinsics):
            intrinsics = intrinsics_of_whole_image(intrinsics, hw if self.mapping is None else self.mapping.camera_hw)
        return intrinsics if self.mapping is None else self.mapping.to_tower(intrinsics)
