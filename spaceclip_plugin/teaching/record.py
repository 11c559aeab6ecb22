"""`teacher.json`: who taught what, by which scale, and what it is worth; a folder without one is not complete."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceclip_plugin import __version__
from spaceclip_plugin._checks import shown
from spaceclip_plugin._digest import code_digest
from spaceclip_plugin._files import read_json_object, write_json
from spaceclip_plugin.data import SourceSpec, parse_source
from spaceclip_plugin.errors import CheckpointError, ConfigError, DataError, TrainingError
from spaceclip_plugin.teaching.keeping import Keeping
from spaceclip_plugin.teaching.scale import ClipScale, scale_from_mapping
from spaceclip_plugin.teaching.teacher import TeacherCard

RECORD_NAME = "teacher.json"
FORMAT = 1
_MAX_BYTES = 1 << 27


@dataclass(frozen=True)
class Check:
    """How the taught depth compares with what was measured at the pixels that are kept; one scale a clip is fitted.

    Attributes:
        images: photos of which something was measured.
        pixels: pixels compared.
        abs_rel, delta1: of the scaled depth, over these pixels.
        abs_rel_as_given: before any scale; None for inverse depth.
    """

    images: int
    pixels: int
    abs_rel: float
    delta1: float
    abs_rel_as_given: float | None


@dataclass(frozen=True)
class TaughtRecord:
    """What `teach` leaves in its folder beside the depth.

    Attributes:
        key: SHA-256 of all that the depth depends on.
        source: the photos, as `parse_source` takes it.
        reading: the unit and `skip_bad` that they were opened with.
        images: how many there are, those that are left out among them.
        teacher, second: who taught, and who was asked besides.
        keeping: what is kept of it; `mask` and `ranges` are digests of what was given, None: nothing.
        shards: file, first photo and SHA-256 of each.
        clips: the scale of each.
        left_out: photos, by number, that cannot be used: unreadable, of a clip without a scale, without depth in range.
        check: against measured depth; None: there is none, and nobody knows how good it is.

    Example:
        >>> from pathlib import Path
        >>> from spaceclip_plugin.errors import DataError
        >>> try:
        ...     TaughtRecord.read(Path("absent"))
        ... except DataError as error:
        ...     print(str(error).split(";")[1].strip())
        there is no such folder
    """

    key: str
    source: Mapping[str, Any]
    reading: Mapping[str, Any]
    images: int
    teacher: TeacherCard
    second: TeacherCard | None
    keeping: Keeping
    mask: str | None
    ranges: str | None
    shards: Sequence[Mapping[str, Any]]
    clips: Sequence[ClipScale]
    left_out: Sequence[int]
    check: Check | None

    @property
    def usable(self) -> int:
        """Photos with depth to learn from."""
        return self.images - len(self.left_out)

    @property
    def photos(self) -> SourceSpec:
        """Which photos were taught; DataError where no installed package has data of that kind."""
        try:
            return parse_source(dict(self.source))
        except ConfigError as error:
            raise DataError(f"the photos that were taught cannot be named: {error}") from error

    @property
    def episodes(self) -> list[int]:
        """Numbers of the episodes whose depth is kept, sorted; empty where a photo is of none."""
        numbers = [episode_of(scale.clip) for scale in self.clips]
        return [] if None in numbers else sorted(number for number in numbers if number is not None)

    @property
    def cards(self) -> list[dict[str, Any]]:
        """Everyone who taught, for the records of what was learnt."""
        return [card.to_mapping() for card in (self.teacher, self.second) if card is not None]

    def write(self, folder: Path) -> None:
        """Say that the folder is complete; TrainingError where the disk refuses."""
        own = {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "teacher": self.teacher.to_mapping(),
            "second": None if self.second is None else self.second.to_mapping(),
            "keeping": {"keep": self.keeping.keep, "range_m": list(self.keeping.range_m)},
            "shards": [dict(shard) for shard in self.shards],
            "clips": [dataclasses.asdict(clip) for clip in self.clips],
            "left_out": list(self.left_out),
            "check": None if self.check is None else dataclasses.asdict(self.check),
        }
        made_by = {"spaceclip_plugin": __version__, "code": code_digest()}
        try:
            write_json(folder / RECORD_NAME, {"format": FORMAT, **own, "made_by": made_by})
        except OSError as error:
            raise TrainingError(
                f"cannot write {str(folder / RECORD_NAME)!r}: {error}; free disk space and give the same command again"
            ) from error

    @classmethod
    def read(cls, folder: Path) -> TaughtRecord:
        """The record in a folder; DataError where there is none, or it is damaged."""
        path = folder / RECORD_NAME
        if not path.is_file():
            begun = any(folder.glob("taught-*"))
            why = "it was interrupted: give the same command again" if begun else "check the path"
            raise DataError(
                f"{folder}: expected depth that a teacher gave (`spaceclip teach`), and there is no {RECORD_NAME}; "
                f"{why if folder.is_dir() else 'there is no such folder'}"
            )
        try:
            values = read_json_object(path, max_bytes=_MAX_BYTES)
            if values.pop("format", None) != FORMAT:
                raise ValueError(f"its format is not {FORMAT}; it was written by another version of this package")
            values.pop("made_by", None)
            names = {field.name for field in dataclasses.fields(cls)}
            if set(values) != names:
                raise ValueError(f"it must hold {', '.join(sorted(names))}")
            return cls(**_parsed(values))
        except (CheckpointError, ConfigError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path}: damaged ({error}). Remove this file alone and give the same command again: the teacher's "
                "depth beside it is not made again"
            ) from error


def episode_of(clip: str) -> int | None:
    """3 of "episode 3", as clips of recordings are called; None of another clip."""
    name, _, number = clip.partition(" ")
    return int(number) if name == "episode" and number.isascii() and number.isdigit() else None


def _parsed(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record, checked as far as they are used."""
    keeping, second, check = values["keeping"], values["second"], values["check"]
    images, left_out = values["images"], values["left_out"]
    if type(images) is not int or images < 1 or not isinstance(values["key"], str):
        raise ValueError(f"it tells of {shown(images)} images")
    if not all(type(index) is int and 0 <= index < images for index in left_out):
        raise ValueError("left_out are numbers of photos")
    starts = [shard["start"] for shard in values["shards"]]
    ends = [*starts[1:], images]
    whole = all(type(start) is int and start < end for start, end in zip(starts, ends, strict=True))
    if not starts or starts[0] != 0 or not whole or not all(_plain(shard["file"]) for shard in values["shards"]):
        raise ValueError("its shards are not those of all photos")
    if not isinstance(values["source"], Mapping) or not isinstance(values["reading"], Mapping):
        raise ValueError("source and reading are mappings")
    return {
        **values,
        "teacher": TeacherCard.from_mapping(values["teacher"]),
        "second": None if second is None else TeacherCard.from_mapping(second),
        "keeping": Keeping(keeping["keep"], tuple(keeping["range_m"])),
        "clips": [scale_from_mapping(clip) for clip in values["clips"]],
        "check": None if check is None else Check(**check),
    }


def _plain(name: object) -> bool:
    """Whether it is the name of a file in the folder itself."""
    return isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..")
