"""Cases that take turns in one process, so that what drifts and what a case leaves behind meets all alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

IMAGES = 2
"""Images that cases run on, so that nothing computed for one can pass for the result of another."""
PAUSE_S = 0.02
"""Between two timed runs: the threads of the one before have stopped looking for work by then."""

Step = Callable[[int], Tensor]
"""One run on the image of that number."""


@dataclass(frozen=True)
class Case:
    """Something that is timed."""

    name: str
    step: Step


def turn_order(count: int, turn: int) -> list[int]:
    """The order of a round (a Williams design): over 2·count rounds each case has each place, and follows each other
    one, equally often.
    """
    zigzag = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(count)]
    order = [(place + turn) % count for place in zigzag]
    return order[::-1] if turn // count % 2 else order


def seconds(step: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def milliseconds(step: Step, which: int, device: torch.device) -> float:
    """Time of one run; on a GPU until its last kernel is done, launches included."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        step(which)
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    time.sleep(PAUSE_S)
    began = time.perf_counter()
    step(which)
    return 1e3 * (time.perf_counter() - began)


def timed(cases: Sequence[Case], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of every round, by case; all cases of a round see the same image."""
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    images = random.Random(0)
    with torch.no_grad():
        for turn in range(rounds):
            which = images.randrange(IMAGES)
            gc.collect()
            for place in turn_order(len(cases), turn):
                case = cases[place]
                times[case.name].append(milliseconds(case.step, which, device))
    return times


def spread(values: Sequence[float], digits: int) -> dict[str, Any]:
    """Median and quartiles."""
    ordered = sorted(values)
    quartiles = [round(ordered[len(ordered) // 4], digits), round(ordered[3 * len(ordered) // 4], digits)]
    return {"median": round(statistics.median(ordered), digits), "quartiles": quartiles, "rounds": len(ordered)}


def over(own: Sequence[float], base: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """The ratio of two medians, with a bootstrap interval of 95 %: both are drawn anew, 2,000 times."""
    random = np.random.default_rng(0)
    drawn = [np.median(random.choice(values, (2000, len(values))), axis=1) for values in (own, base)]
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    ratio = statistics.median(own) / statistics.median(base)
    interval = [round(float(low), digits), round(float(high), digits)]
    return {"ratio": round(ratio, digits), "interval": interval, "of": [len(own), len(base)]}
