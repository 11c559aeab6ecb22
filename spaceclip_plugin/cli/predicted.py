"""What `predict` leaves and says of a photo, of a frame, and of a whole clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from spaceclip_plugin.cli.clips import Clip
from spaceclip_plugin.cli.depth_video import DepthVideo
from spaceclip_plugin.cli.shots import Image, Shot
from spaceclip_plugin.depth import DepthMap, depth_picture, write_png
from spaceclip_plugin.depth.depth_map import ASSUMED, KNOWN, UNFAMILIAR

Said = dict[str, Any]

_STEADY = ("frames", "reset", "carried", "log_scale", "log_scale_sd", "doubt")
_MAX_NAMED = 12


def write_files(
    shot: Shot, depth: DepthMap, photo: Image, *, depth_range_m: tuple[float, float] | None, replace: bool
) -> None:
    """Write the files that a shot is to have."""
    files = shot.files
    if "depth_mm" in files:
        depth.save_png16(files["depth_mm"], replace=replace)
    if "picture" in files:
        picture = depth_picture(depth.relabelled(camera=shot.name), photo, depth_range_m=depth_range_m)
        write_png(files["picture"], picture, replace=replace)
    if "points" in files:
        depth.save_ply(files["points"], image=photo, replace=replace)
    if "undistorted" in files:
        write_png(files["undistorted"], photo, replace=replace)


def said_of_shot(shot: Shot, depth: DepthMap) -> Said:
    """What `--json` says of a photo or a frame."""
    camera, known = shot.camera, depth.depth_m[depth.valid]
    return {
        "image": str(shot.source),
        **({} if shot.frame is None else {"frame": shot.frame, "time_s": shot.time_s}),
        "median_depth_m": float(known.median()) if known.numel() else None,
        "trained": depth.trained,
        "lens": depth.lens,
        "familiarity": None if depth.familiarity is None else float(depth.familiarity),
        "image_hw": list(depth.depth_m.shape[1:]),
        "intrinsics": camera and {"fx": camera.fx_px, "fy": camera.fy_px, "cx": camera.cx_px, "cy": camera.cy_px},
        **({} if shot.frame is None else {"steady": _said_of_steady(depth)}),
        "files": {kind: str(file) for kind, file in shot.files.items()},
    }


def _said_of_steady(depth: DepthMap) -> Said | None:
    """What earlier frames did for a frame; None where nobody asked them."""
    if not depth.steady:
        return None
    [steady] = depth.steady
    return {name: getattr(steady, name) for name in _STEADY}


def said_of_clip(clip: Clip, video: DepthVideo) -> Said:
    """What `--json` says of a clip beside its frames."""
    return {"source": str(clip.place), "depth_video": str(clip.depth_video), **video.said}


def lines_of_photo(prediction: Mapping[str, Any]) -> list[str]:
    """What people are told of a photo, or of a frame in a folder."""
    depth_m = prediction["median_depth_m"]
    said = "no depth" if depth_m is None else f"median depth {depth_m:.2f} m"
    said += _doubts(prediction)
    return [f"{prediction['image']}: {said}", *(f"  {kind}: {file}" for kind, file in prediction["files"].items())]


def lines_of_video(predictions: Sequence[Said]) -> list[str]:
    """What people are told of a video's frames, all in one."""
    depths_m = [one["median_depth_m"] for one in predictions if one["median_depth_m"] is not None]
    familiar = [one["familiarity"] for one in predictions if one["familiarity"] is not None]
    whole = {**predictions[-1], "familiarity": median(familiar) if familiar else None}
    said = f"median depth {median(depths_m):.2f} m" if depths_m else "no depth"
    lines = [f"{whole['image']}: {len(predictions)} frames, {said}{_doubts(whole)}"]
    return lines + [f"  frames: {folder}" for folder in {str(Path(file).parent) for file in whole["files"].values()}]


def lines_of_clip(said: Said, predictions: Sequence[Said]) -> list[str]:
    """What people are told of the video that was written, and of the frames with which steady depth began anew."""
    near_m, far_m = said["depth_range_m"]
    beyond = f"; {said['beyond_range']:.0%} of the pixels lie beyond, see --depth-range"
    colours = f"colours from {near_m:.2f} to {far_m:.2f} m{beyond if said['beyond_range'] >= 0.005 else ''}"
    lines = [f"depth video: {said['depth_video']} ({colours})"]
    steady = {one["frame"]: one["steady"] for one in predictions if one["steady"] is not None}
    for what, key in (("steady depth began anew", "reset"), ("poses were not believed", "doubt")):
        frames: dict[str, list[int]] = {}
        for frame, one in steady.items():
            if one[key] is not None:
                frames.setdefault(one[key], []).append(frame)
        lines += [f"{what} at {_frames(numbers)}: {reason}" for reason, numbers in frames.items()]
    return lines


def _frames(numbers: Sequence[int]) -> str:
    first = ", ".join(map(str, numbers[:_MAX_NAMED]))
    more = f" and {len(numbers) - _MAX_NAMED} more" if len(numbers) > _MAX_NAMED else ""
    return f"frame{'s' if len(numbers) > 1 else ''} {first}{more}"


def _doubts(prediction: Mapping[str, Any]) -> str:
    """What is to be known beside the median, each after a comma or in brackets."""
    familiarity, said = prediction["familiarity"], ""
    if prediction["lens"] == ASSUMED:
        said += " (camera assumed: give --intrinsics)"
    elif prediction["lens"] != KNOWN and prediction["intrinsics"] is not None:
        said += " (the head does not tell which camera its metres are of)"
    if familiarity is not None:
        said += f", familiarity {familiarity:.2f}" + (": unlike the training images" * (familiarity < UNFAMILIAR))
    if "undistorted" in prediction["files"]:
        said += ", of the undistorted photo"
    return said


def listed(failed: Mapping[Path, str], photos: int) -> str:
    """Which photos failed, and why."""
    reasons = "\n".join(f"  {reason}" for reason in failed.values())
    return f"{len(failed)} of {photos} photos could not be predicted:\n{reasons}"
