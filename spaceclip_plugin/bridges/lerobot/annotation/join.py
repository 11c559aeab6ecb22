"""A data set and the depth of its episodes as one new data set of LeRobot's format.

What the source has is copied: its videos byte for byte, for LeRobot's own tools add features to the rows of a data set
but no videos. Its rows are read and written again only where depth is stored as images, which are part of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.io_utils import get_file_size_in_mb, load_stats, write_stats
from lerobot.datasets.utils import (
    DEFAULT_DATA_PATH,
    DEFAULT_EPISODES_PATH,
    DEFAULT_VIDEO_PATH,
    update_chunk_file_indices,
)
from lerobot.datasets.video_utils import concatenate_video_files, get_video_duration_in_s

from spaceclip_plugin._files import read_json_object, write_json
from spaceclip_plugin.bridges.lerobot.annotation.channels import VIDEO, Channel
from spaceclip_plugin.bridges.lerobot.annotation.recording import Recording, files_of
from spaceclip_plugin.errors import DataError

_INFO, _STATS = Path("meta/info.json"), Path("meta/stats.json")
_EPISODES, _DATA = "meta/episodes/", "data/"


@dataclass(frozen=True)
class Parts:
    """The depth of every episode, as `write_episode` left it.

    Attributes:
        folders: one for each episode, in order.
        channels: what each of them holds.
    """

    folders: Sequence[Path]
    channels: Sequence[Channel]

    def root(self, episode: int, channel: Channel) -> Path:
        """Of the data set of one feature that holds an episode's channel."""
        return self.folders[episode] / channel.key


def join(recording: Recording, parts: Parts, out: Path) -> None:
    """Write the enriched data set into a folder that is there and empty; `meta/info.json`, which makes it one, last."""
    rows = [channel for channel in parts.channels if channel.dtype != VIDEO]
    for path in files_of(recording.root):
        name = path.relative_to(recording.root)
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.as_posix().startswith(_DATA) and rows and path.suffix == ".parquet":
            _add_images(path, target, parts, rows)
        elif name not in (_INFO, _STATS) and not name.as_posix().startswith(_EPISODES):
            shutil.copyfile(path, target)
    info = _info_of(recording.root)
    columns = _statistics_columns(parts)
    for channel in parts.channels:
        if channel.dtype == VIDEO:
            columns.update(_join_videos(parts, channel, out, info))
    _add_columns(recording.root, out, columns)
    _write_statistics(recording.root, parts, out)
    features = {channel.key: _info_of(parts.root(0, channel))["features"][channel.key] for channel in parts.channels}
    info["features"] = {**info["features"], **features}
    if any(channel.dtype == VIDEO for channel in parts.channels):
        info["video_path"] = info.get("video_path") or DEFAULT_VIDEO_PATH
    write_json(out / _INFO, info)


def _info_of(root: Path) -> dict[str, Any]:
    return read_json_object(root / _INFO)


def _add_images(source: Path, target: Path, parts: Parts, channels: Sequence[Channel]) -> None:
    """Rows with the images of these channels, one row group of the source after the other."""
    file = pq.ParquetFile(source)
    schema = file.schema_arrow
    for channel in channels:
        part = _part_rows(parts, 0, channel).schema
        schema = schema.append(part.field(channel.key))
    schema = schema.with_metadata(_with_images(schema.metadata, [channel.key for channel in channels]))
    with pq.ParquetWriter(target, schema, compression="snappy", use_dictionary=True) as writer:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for episode, first, count in _runs(table):
                rows = table.slice(first, count)
                start = rows.column("frame_index")[0].as_py()
                for channel in channels:
                    part = _part_rows(parts, episode, channel).slice(start, count)
                    if len(part) != count:
                        raise DataError(f"{source}: episode {episode} has more frames than the metadata say")
                    rows = rows.append_column(part.schema.field(channel.key), part.column(0))
                writer.write_table(rows)


def _part_rows(parts: Parts, episode: int, channel: Channel) -> pa.Table:
    path = parts.root(episode, channel) / DEFAULT_DATA_PATH.format(chunk_index=0, file_index=0)
    return pq.ParquetFile(path).read(columns=[channel.key])


def _runs(table: pa.Table) -> Iterator[tuple[int, int, int]]:
    """Of each stretch of rows of one episode: the episode, the first row, and how many there are."""
    episodes = table.column("episode_index").to_pylist()
    first = 0
    for row in range(1, len(episodes) + 1):
        if row == len(episodes) or episodes[row] != episodes[first]:
            yield episodes[first], first, row - first
            first = row


def _with_images(metadata: Mapping[bytes, bytes] | None, keys: Sequence[str]) -> dict[bytes, bytes]:
    """The features that `datasets` keeps in a schema, with images under these keys."""
    found = dict(metadata or {})
    if b"huggingface" in found:
        told = json.loads(found[b"huggingface"])
        told["info"]["features"].update({key: {"_type": "Image"} for key in keys})
        found[b"huggingface"] = json.dumps(told).encode()
    return found


def _join_videos(parts: Parts, channel: Channel, out: Path, info: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Videos of the size that LeRobot gives its own, made of those of the episodes without encoding them again.

    Returns the columns of the episodes that say where theirs is.
    """
    template = str(info.get("video_path") or DEFAULT_VIDEO_PATH)
    names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns: dict[str, list[Any]] = {f"videos/{channel.key}/{name}": [] for name in names}
    chunk, number, size_mb, end_s = 0, 0, 0.0, 0.0
    waiting: list[Path] = []

    def write() -> None:
        target = out / template.format(video_key=channel.key, chunk_index=chunk, file_index=number)
        target.parent.mkdir(parents=True, exist_ok=True)
        if len(waiting) == 1:
            shutil.copyfile(waiting[0], target)
        else:
            concatenate_video_files(waiting, target)
        waiting.clear()

    for episode in range(len(parts.folders)):
        name = DEFAULT_VIDEO_PATH.format(video_key=channel.key, chunk_index=0, file_index=0)
        video = parts.root(episode, channel) / name
        video_mb = get_file_size_in_mb(video)
        if waiting and size_mb + video_mb >= info["video_files_size_in_mb"]:
            write()
            chunk, number = update_chunk_file_indices(chunk, number, info["chunks_size"])
            size_mb, end_s = 0.0, 0.0
        waiting.append(video)
        start_s, size_mb = end_s, size_mb + video_mb
        end_s = start_s + get_video_duration_in_s(video)
        for name, value in zip(names, (chunk, number, start_s, end_s), strict=True):
            columns[f"videos/{channel.key}/{name}"].append(value)
    write()
    return columns


def _statistics_columns(parts: Parts) -> dict[str, Any]:
    """What LeRobot's writer said of each episode's values, by the names of the columns."""
    columns: dict[str, Any] = {}
    for channel in parts.channels:
        tables = []
        for episode in range(len(parts.folders)):
            path = parts.root(episode, channel) / DEFAULT_EPISODES_PATH.format(chunk_index=0, file_index=0)
            file = pq.ParquetFile(path)
            names = [name for name in file.schema_arrow.names if name.startswith(f"stats/{channel.key}/")]
            tables.append(file.read(columns=names))
        joined = pa.concat_tables(tables)
        columns.update({name: joined.column(name) for name in joined.column_names})
    return columns


def _add_columns(source: Path, out: Path, columns: Mapping[str, Any]) -> None:
    """The episodes' metadata, with columns that hold one value for each episode."""
    whole = pa.table(dict(columns))
    for path in files_of(source):
        name = path.relative_to(source)
        if not name.as_posix().startswith(_EPISODES):
            continue
        table = pq.ParquetFile(path).read()
        added = whole.take(table.column("episode_index"))
        for column in added.column_names:
            table = table.append_column(column, added.column(column))
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, out / name, compression="snappy", use_dictionary=True)


def _write_statistics(source: Path, parts: Parts, out: Path) -> None:
    """Those of the source as they are, and those of each channel over all episodes as LeRobot joins them."""
    joined = {}
    for channel in parts.channels:
        each = [load_stats(parts.root(episode, channel)) for episode in range(len(parts.folders))]
        joined.update(aggregate_stats([{channel.key: stats[channel.key]} for stats in each]))
    write_stats(joined, out)
    path = source / _STATS
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    merged = {**before, **json.loads((out / _STATS).read_text(encoding="utf-8"))}
    (out / _STATS).write_text(json.dumps(merged, indent=4), encoding="utf-8")
