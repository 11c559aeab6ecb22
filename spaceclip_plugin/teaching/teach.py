"""Let a teacher give depth to photos: asked once each, shared out over processes, kept, scaled and checked."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from spaceclip_plugin import _checks
from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin._files import atomic_path, is_temporary
from spaceclip_plugin.data import DepthSource, SourceSpec
from spaceclip_plugin.data.sample import fingerprint
from spaceclip_plugin.data.sources.registry import source_mapping
from spaceclip_plugin.data.sources.spec import open_photos
from spaceclip_plugin.errors import DataError, TrainingError
from spaceclip_plugin.teaching.evidence import Ranges, read_ranges
from spaceclip_plugin.teaching.finishing import Finishing, check_can_be_anchored, finish
from spaceclip_plugin.teaching.keeping import KEEP, RANGE_M, Keeping, read_mask
from spaceclip_plugin.teaching.making import Making
from spaceclip_plugin.teaching.record import RECORD_NAME, TaughtRecord
from spaceclip_plugin.teaching.shards import TaughtPhoto, TaughtShard, shard_path
from spaceclip_plugin.teaching.taught import MASK_NAME
from spaceclip_plugin.teaching.teacher import DepthTeacher
from spaceclip_plugin.training.processes import Processes

_LOCK_NAME = ".lock"
_LOOKED_AT = 24


@dataclass(frozen=True, kw_only=True)
class TeachOptions:
    """How depth is taught.

    Attributes:
        keep: share of a photo's known pixels that is kept: those that its mirror image, and a second teacher, agree on.
        range_m: metres beyond which depth is left out.
        mask: a picture, white where no photo is to be learnt from: the robot's gripper.
        ranges: CSV of known distances, with the columns index (of the photo, from 0), u_px, v_px and depth_m.
        units_per_metre: of measured integer depth where the source has no unit of its own.
        skip_bad: leave out photos that cannot be read and clips that get no scale, instead of an error.
        workers: processes that read photos ahead.
        progress: show progress bars on standard error, in the main process.

    Raises:
        ConfigError: a number out of bounds.

    Example:
        >>> TeachOptions(keep=0.9).range_m
        (0.05, 100.0)
    """

    keep: float = KEEP
    range_m: tuple[float, float] = RANGE_M
    mask: Path | None = None
    ranges: Path | None = None
    units_per_metre: float = 1000.0
    skip_bad: bool = False
    workers: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        Keeping(self.keep, self.range_m)
        _checks.real("units_per_metre", self.units_per_metre, 1e-3, 1e6)
        _checks.whole("workers", self.workers, 0, 1_024)


def teach(
    data: SourceSpec,
    teacher: DepthTeacher,
    out: Path,
    *,
    second: DepthTeacher | None = None,
    device: torch.device | str = "cpu",
    options: TeachOptions | None = None,
) -> TaughtRecord:
    """Have a teacher look at every photo, and leave in `out` what `taught:OUT` opens as training data.

    Every photo is looked at twice, mirrored too. What the teacher says is kept in float32 as it says it; the scale of a
    clip (an episode; all photos that are of none) is fitted to what was measured there and can be fitted anew, with
    another mask, range or share, without asking the teacher again. In several processes (`torchrun`) all call it alike,
    and photos are shared out. Interrupted, the same call goes on where it was.

    Args:
        data: the photos; they need no depth, and what depth they have gives the scale.
        teacher: who is asked.
        out: a folder of this alone, made if absent.
        second: is asked besides: where it disagrees, depth is doubtful.
        device: where the teachers run.
        options: how; None: the defaults.

    Raises:
        ConfigError: `data` is of no kind of data.
        TeacherError: a teacher without metres and nothing to anchor it; depth that is none, mostly out of range, or in
            no one scale with what was measured.
        TrainingError: the folder is taken, by a process or by other things; the disk is full; a file is damaged. What
            is done stays.
        DataError: photos that cannot be used.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from spaceclip_plugin.data import parse_source
        >>> class Wall:
        ...     card = TeacherCard("wall:1", "metres", "of no weights", lens="takes none")
        ...     def depth(self, photos, intrinsics):
        ...         return np.ones(photos.shape[:3], np.float32)
        >>> Path("photos").mkdir()
        >>> Image.new("RGB", (6, 4)).save("photos/wall.png")
        >>> photos, quiet = parse_source("folder:photos"), TeachOptions(progress=False)
        >>> record = teach(photos, Wall(), Path("walls"), options=quiet)
        >>> record.usable, record.clips[0].based_on
        (1, 'nothing')
    """
    options = options or TeachOptions()
    processes = Processes(torch.device(device), workers=options.workers)
    keeping = Keeping(options.keep, options.range_m)
    mask, mask_digest = (None, None) if options.mask is None else read_mask(options.mask)
    source = open_photos(data, units_per_metre=options.units_per_metre, skip_bad=options.skip_bad)
    if len(source) == 0:
        raise DataError("there are no photos to teach: the source is empty")
    ranges: Ranges = {} if options.ranges is None else read_ranges(options.ranges, photos=len(source))
    if not teacher.card.metric:
        processes.on_main(lambda: check_can_be_anchored(bool(ranges) or _measured(source), name=teacher.card.name))
    fingerprints = processes.shared_out(lambda indices: (fingerprint(source, i) for i in indices), len(source))
    making = Making(teacher, second, source, fingerprints, out, processes, options.skip_bad)
    processes.check_equal({"teacher": making.key})
    lock = FileLock(out / _LOCK_NAME)
    try:
        processes.on_main(lambda: _claim(out, lock, making.key))
        making.photos_per_shard = processes.on_main(making.prepare)
        shown = options.progress and processes.main
        with tqdm(total=len(source), desc="teaching", unit="photo", disable=not shown) as bar:
            advance = functools.partial(_advance, bar, processes.count)
            digests = processes.together(lambda: making.make_share(advance))
        shards = {number: digest for share in processes.gathered(digests) for number, digest in share.items()}
        how = Finishing(teacher.card.metric, teacher.card.range_m, keeping, mask, ranges, skip_bad=options.skip_bad)

        def finished() -> TaughtRecord:
            with tqdm(total=len(source), desc="scaling", unit="photo", disable=not shown) as scaling:
                outcome = finish(_photos(out, making.key, len(shards)), how, progress=scaling.update)
            if options.mask is not None:
                _copy_mask(options.mask, out)
            record = TaughtRecord(
                key=making.key,
                source=source_mapping(data.resolved(Path.cwd())),
                reading={"units_per_metre": options.units_per_metre, "skip_bad": options.skip_bad},
                images=len(source),
                teacher=teacher.card,
                second=None if second is None else second.card,
                keeping=keeping,
                mask=mask_digest,
                ranges=None if options.ranges is None else sha256_of(options.ranges.read_bytes()),
                shards=_rows(shards, making.photos_per_shard),
                clips=outcome.clips,
                left_out=outcome.left_out,
                check=outcome.check,
            )
            record.write(out)
            return record

        return processes.on_main(finished)
    finally:
        lock.release()


def _measured(source: DepthSource) -> bool:
    """Whether any of a few photos, spread over the source, has measured depth."""
    count = len(source)
    return any(source[index].depth_m.any() for index in sorted({i * count // _LOOKED_AT for i in range(_LOOKED_AT)}))


def _claim(out: Path, lock: FileLock, key: str) -> None:
    """Make the folder this call's own; TrainingError where it is anyone else's."""
    with _usable(out):
        out.mkdir(parents=True, exist_ok=True)
        foreign = [entry.name for entry in sorted(out.iterdir()) if not _is_own(entry)]
    if foreign:
        raise TrainingError(
            f"{str(out)!r} is not empty (it holds {foreign[0]!r}), and taught depth has a folder of its own; choose "
            "another one"
        )
    with _usable(out):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise TrainingError(
                f"another process is teaching in {str(out)!r}; wait for it, or choose another folder"
            ) from error
    if (out / RECORD_NAME).is_file():
        found = TaughtRecord.read(out).key
        if found != key:
            raise TrainingError(
                f"{str(out)!r} holds depth of another teacher or of other photos (key {found[:12]}…, wanted "
                f"{key[:12]}…); choose another folder, or remove that one"
            )


def _is_own(entry: Path) -> bool:
    name = entry.name
    return name in (_LOCK_NAME, RECORD_NAME, MASK_NAME) or name.startswith("taught-") or is_temporary(entry)


@contextmanager
def _usable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"cannot teach into {str(out)!r}: {error}; choose a folder you can write to") from error


def _photos(out: Path, key: str, shards: int) -> Iterator[TaughtPhoto]:
    """All that was taught, in order."""
    for number in range(shards):
        shard = TaughtShard(shard_path(out, number), key=key)
        for row in range(len(shard)):
            yield shard.photo(row)


def _rows(digests: dict[int, str], photos_per_shard: int) -> Sequence[dict[str, object]]:
    return [
        {"file": shard_path(Path(), number).name, "start": number * photos_per_shard, "sha256": digests[number]}
        for number in sorted(digests)
    ]


def _copy_mask(mask: Path, out: Path) -> None:
    """Keep the mask with the depth."""
    if mask.resolve() != (out / MASK_NAME).resolve():
        with _usable(out), atomic_path(out / MASK_NAME) as temporary:
            temporary.write_bytes(mask.read_bytes())


def _advance(bar: object, processes: int, photos: int) -> None:
    bar.update(photos * processes)  # type: ignore[attr-defined]
