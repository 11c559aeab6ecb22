"""The predicted depth of one episode as LeRobot data sets of one feature each: whole, or absent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lerobot.configs import DepthEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from PIL import Image

from spaceclip_plugin import DepthMap
from spaceclip_plugin._files import atomic_folder
from spaceclip_plugin.bridges.lerobot.annotation.channels import VIDEO, Channel
from spaceclip_plugin.bridges.lerobot.annotation.recording import Recording
from spaceclip_plugin.bridges.lerobot.dataset import unreadable
from spaceclip_plugin.errors import DataError, SpaceClipError


def write_episode(
    folder: Path, depth_maps: Iterable[DepthMap], channels: Sequence[Channel], recording: Recording
) -> None:
    """Write every channel of an episode's depth to `folder / key`, with LeRobot's own encoder and statistics.

    Raises:
        DataError: the disk refused a file: LeRobot itself only logs it where an image cannot be written.
    """
    try:
        with atomic_folder(folder) as temporary:
            writers = [_writer(temporary / channel.key, channel, recording) for channel in channels]
            for depth in depth_maps:
                for channel, writer in zip(channels, writers, strict=True):
                    for frame in channel.frames(depth):
                        writer.add_frame({channel.key: frame, "task": ""})
                        _check_written(Path(writer.writer.episode_buffer[channel.key][-1]))
            for writer in writers:
                writer.save_episode(parallel_encoding=False)
                writer.finalize()
    except SpaceClipError:
        raise
    except unreadable() as error:
        raise DataError(
            f"the depth of {recording.place} cannot be written to {str(folder)!r} ({error}); episodes that are done "
            "are kept: free disk space or make the folder writable, then run the same command again"
        ) from error


def _writer(root: Path, channel: Channel, recording: Recording) -> Any:
    settings = channel.encoder()
    return LeRobotDataset.create(
        "spaceclip/depth",
        fps=recording.fps,
        features={channel.key: channel.feature(recording.image_hw)},
        root=root,
        use_videos=channel.dtype == VIDEO,
        depth_encoder=None if settings is None else DepthEncoderConfig(**settings),
    )


def _check_written(path: Path) -> None:
    with Image.open(path) as image:
        image.load()  # an error where the file was cut off
