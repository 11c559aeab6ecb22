"""The processes of a run: one, or those that `accelerate launch` started, each with a part of every batch."""

from __future__ import annotations

import atexit
import importlib.util
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError, TrainingError

TRACKERS = ("tensorboard", "wandb", "trackio")
T = TypeVar("T")


class Processes:
    """What the processes of a run do together; with a single one, nothing. What accelerate does not have is here:
    a failure of one that is a failure of all, and a loss of the whole batch."""

    def __init__(
        self, device: torch.device, *, workers: int = 0, log_with: str | None = None, folder: Path | None = None
    ) -> None:
        """Join the processes that a launcher started; `folder` is where the tracker `log_with` puts files."""
        check_tracker(log_with)
        check_launched()
        self._tracked = log_with is not None
        # accelerate's own device is one per process, and not always the host's.
        self.rank, self.count, self.device, self.workers = 0, 1, device, workers
        # Alone there is nothing to accelerate, and its state is one per process: another library's may be in the way.
        if self._tracked or _launched_together():
            self._accelerator = _accelerator(device, log_with, folder)
            self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        places = self.gathered((socket.gethostname(), str(device)))
        if device.type == "cuda" and places.count(places[self.rank]) > 1:
            raise ConfigError(
                f"{places.count(places[self.rank])} processes would share {device}: give each a GPU of its own "
                "(cuda:LOCAL_RANK, as hosts by name get without --device), or start fewer"
            )

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def together(self, work: Callable[[], T]) -> T:
        """Do something in every process; where it fails in one, it fails in all, and nobody waits for ever."""
        if self.count == 1:
            return work()
        mine: BaseException | None = None
        result: T | None = None
        try:
            result = work()
        except BaseException as error:
            mine = error
        if self.any(mine is not None):
            failures = self.gathered(None if mine is None else f"process {self.rank}: {type(mine).__name__}: {mine}")
            if mine is not None:
                raise mine
            raise TrainingError(next(failure for failure in failures if failure is not None))
        return cast(T, result)

    def check_equal(self, values: Mapping[str, object]) -> None:
        """Raise TrainingError, naming what differs, unless every process has the same values."""
        everyone = self.gathered(dict(values))
        for name in values:
            if any(one[name] != everyone[0][name] for one in everyone):
                raise TrainingError(
                    f"the {self.count} processes do not start alike: their {name} differ. Give all of them the same "
                    "data, and make host and head from the same seed or files"
                )

    def on_main(self, work: Callable[[], T]) -> T:
        """What the main process makes of something, while the others wait; a failure there is one everywhere."""
        return cast(T, self.gathered(self.together(lambda: work() if self.main else None))[0])

    def shared_out(self, work: Callable[[Sequence[int]], Iterable[T]], count: int) -> list[T]:
        """What `work` makes of the numbers 0 … count - 1, one value each, in order; every process makes its share."""
        shares = self.gathered(self.together(lambda: list(work(range(self.rank, count, self.count)))))
        return [shares[number % self.count][number // self.count] for number in range(count)]

    def gathered(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object([value])
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return flag if self.count == 1 else bool(self._sum(torch.tensor([int(flag)])).item())

    def joined(self, mine: Tensor, sizes: Sequence[int]) -> Tensor:
        """The first `sizes[rank]` rows of every process as one tensor; gradients reach those of this process alone.
        So the gradients of a loss of the joined tensors, summed over processes, are those of the whole batch."""
        own = mine[: sizes[self.rank]]
        if self.count == 1:
            return own
        padded = mine.new_zeros((max(sizes), *mine.shape[1:]))
        padded[: len(own)] = own.detach()
        everyone: Tensor = self._accelerator.gather(padded.to(self._accelerator.device)).to(mine.device)
        rows = torch.chunk(everyone, self.count)
        return torch.cat([own if rank == self.rank else rows[rank][:size] for rank, size in enumerate(sizes)])

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by the sum over processes; a parameter without one counts as zero."""
        if self.count == 1:
            return
        used = list(parameters)
        flat = self._sum(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used]))
        for parameter, values in zip(used, torch.split_with_sizes(flat, [p.numel() for p in used]), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(values.view_as(parameter))

    def start_tracker(self, config: Mapping[str, object]) -> None:
        """Give the tracker, where there is one, the settings of the run."""
        if self._tracked:
            self.together(lambda: self._accelerator.init_trackers("spaceclip", config=dict(config)))

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Figures for the tracker."""
        if self._tracked:
            self._accelerator.log(dict(values), step=step)

    def end_tracker(self) -> None:
        """The tracker writes what it holds."""
        if self._tracked:
            self._accelerator.end_training()

    def _sum(self, mine: Tensor) -> Tensor:
        summed: Tensor = self._accelerator.reduce(mine.to(self._accelerator.device), reduction="sum")
        return summed.to(mine.device)


def check_launched() -> None:
    """Raise ConfigError where a launcher was asked for several processes and started one: accelerate does on the CPU,
    unless it has MPI; it sets the address at which several would meet, but no count of them."""
    by_accelerate = "ACCELERATE_USE_CPU" in os.environ  # set by its launcher alone
    meeting = all(os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
    if by_accelerate and meeting and "WORLD_SIZE" not in os.environ and not _launched_together():
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does on the CPU without MPI. "
            "Start them with `torchrun --nproc_per_node N -m spaceclip_plugin.cli train …`, or one process without a "
            "launcher; if MASTER_ADDR and MASTER_PORT are set for something else, unset them"
        )


def check_tracker(name: str | None) -> None:
    """Check that a tracker is known and installed; accelerate would leave an absent one out in silence."""
    if name is None:
        return
    _checks.choice("log_with", name, TRACKERS)
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"log_with={name!r}, but {name} is not installed: pip install {name}, or leave it out")
    from accelerate.utils import LoggerType

    if name not in [str(kind.value) for kind in LoggerType]:
        raise ConfigError(f"log_with={name!r} needs a newer accelerate: pip install -U accelerate, or leave it out")


def _launched_together() -> bool:
    """Whether a launcher (torchrun, accelerate, MPI) started this process as one of several."""
    sizes = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
    return torch.distributed.is_initialized() or any(os.environ.get(name, "1") not in ("", "0", "1") for name in sizes)


def _accelerator(device: torch.device, log_with: str | None, folder: Path | None) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    # Others wait while one reads a data set or scores a test list: by default they would give up after ten minutes.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    in_a_group = torch.distributed.is_initialized()
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            device_placement=False,
            log_with=log_with,
            project_dir=folder,
            kwargs_handlers=[patience],
        )
    except ValueError as error:  # its state was set up otherwise, by an earlier run or by the host's own code
        raise ConfigError(
            f"accelerate cannot be set up for {device}: {error}. Train in a process of its own"
        ) from error
    if torch.distributed.is_initialized() and not in_a_group:
        atexit.register(_leave_group)
    return accelerator


def _leave_group() -> None:
    """A process that ends with the group's threads still running is aborted, though its work is done."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of the random numbers a head's dropout draws, by kind of device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Restore what `rng_state` gave; TrainingError where that was on another kind of device."""
    wanted = {"cpu", "cuda"} if device.type == "cuda" else {"cpu"}
    if set(state) != wanted:
        raise TrainingError(
            f"the checkpoint was made on {' and '.join(sorted(state))}, this run is on {device.type}: it cannot go on "
            "bit by bit there; give the same --device"
        )
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
