"""What a camera of known pose sees of a table, and where its depth puts things in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spaceclip_plugin import DepthMap, Intrinsics
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.depth import Plane
from spaceclip_worlds.render.scene import Camera, Vector
from spaceclip_worlds.sighting import Sighting

_MIN_PIXELS = 5
_MIN_RED, _REDDER = 50, 2.0
# Where the median of the visible points of a cube lies in front of its centre, in half sides: over scenes of
# `ArmWorld` and `TwoCameraTable` it is 0.9 to 1.0.
_IN_FRONT = 0.95
_LEAST_SHARE = 0.01  # standard deviation over depth: of depth that says it is exact, too


@dataclass(frozen=True, eq=False)
class Observation:
    """A picture and all that is known about it.

    Attributes:
        image: (112, 112, 3) uint8 RGB.
        depth_m: (112, 112) float32 metres along the optical axis: the truth, which only a simulator tells.
        intrinsics: of the image.
        camera: its pose in the world, where the table top has height 0.
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    intrinsics: Intrinsics
    camera: Camera

    @property
    def table(self) -> Plane:
        """The table top in the camera frame."""
        x, y, z = self.camera.rotation[2].tolist()
        return Plane((x, y, z), -self.camera.position_m[2])

    def depth_map(
        self, depth_m: npt.NDArray[np.float32] | None = None, *, uncertainty: float | None = None
    ) -> DepthMap:
        """The truth, or other depth of the same size, as a head would give it.

        Args:
            depth_m: (112, 112) metres; the truth if not given.
            uncertainty: standard deviation over depth, everywhere; None: it tells none.
        """
        values = torch.from_numpy(np.array(self.depth_m if depth_m is None else depth_m, dtype=np.float32))[None]
        height, width = self.image.shape[:2]
        return DepthMap(
            values,
            torch.ones_like(values, dtype=torch.bool),
            camera=None,
            frame=0,
            image_hw=(height, width),
            trained=True,
            uncertainty_m=None if uncertainty is None else uncertainty * values,
        )

    def sample(self, name: str) -> DepthSample:
        """For training and scoring depth."""
        return DepthSample(self.image, self.depth_m, name, self.intrinsics)

    def world_points(self, depth: DepthMap) -> npt.NDArray[np.float64]:
        """(H, W, 3) where depth of this picture puts its pixels in the world, metres."""
        points = depth.points(self.intrinsics)[0].detach().cpu().double().numpy()
        world: npt.NDArray[np.float64] = points @ self.camera.rotation.T + np.array(self.camera.position_m)
        return world


def red_pixels(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(H, W) which pixels show the block: nothing else is as red."""
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    mask: npt.NDArray[np.bool_] = (red > _MIN_RED) & (red > _REDDER * green) & (red > _REDDER * blue)
    return mask


def locate_block(observation: Observation, depth: DepthMap, *, half_m: float) -> Vector | None:
    """The centre of the red cube in the world, from nothing but its pixels and their depth.

    Args:
        observation: the picture with its camera.
        depth: of that picture, at its size.
        half_m: half a side of the cube.

    Returns:
        x, y, z in metres, or None where too few red pixels are in sight.
    """
    seen = block_seen(observation, depth, half_m=half_m)
    if seen is None:
        return None
    x, y, z = seen[0].tolist()
    return (x, y, z)


def block_seen(
    observation: Observation, depth: DepthMap, *, half_m: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
    """The centre of the red cube, (3,) metres in the world, and its pixels (H, W); see `locate_block`."""
    mask = red_pixels(observation.image) & depth.valid[0].cpu().numpy()
    if mask.sum() < _MIN_PIXELS:
        return None
    seen_m = np.median(observation.world_points(depth)[mask], axis=0)
    ray = seen_m - np.array(observation.camera.position_m)
    return seen_m + _IN_FRONT * half_m * ray / np.linalg.norm(ray), mask


def block_sighted(observation: Observation, depth: DepthMap, *, half_m: float) -> Sighting | None:
    """What one picture and its depth say of where the cube's centre is; see `locate_block`.

    Args:
        observation: the picture with its camera.
        depth: of that picture, at its size; exact where it tells no uncertainty.
        half_m: half a side of the cube.

    Returns:
        None where too few red pixels are in sight.
    """
    seen = block_seen(observation, depth, half_m=half_m)
    if seen is None:
        return None
    place_m, mask = seen
    camera_m, along, across = np.array(observation.camera.position_m), _LEAST_SHARE, 1.0 / observation.intrinsics.fy_px
    if depth.uncertainty_m is not None:
        shares = (depth.uncertainty_m / depth.depth_m)[0].cpu().numpy()[mask]
        along = max(float(np.median(shares)), _LEAST_SHARE)
    if mask[[0, -1]].any() or mask[:, [0, -1]].any():  # the picture's edge cuts the block
        across += half_m / float(np.linalg.norm(place_m - camera_m))
    return Sighting.of_look(camera_m, place_m, along=along, across=across)
