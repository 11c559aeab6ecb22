"""The states that are drawn: a task set up at random, and a scripted policy on its way through it that errs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.bridges.optional import imported

LAST_STEP = 150
"""By then most scripted policies are done."""

_HELD = 0.9  # share of an error that stays to the next step: the arm strays, where white noise would make it tremble
_ERRORS = (0.02, 0.3)  # what is added to it at every step: range of standard deviations, of actions in [-1, 1]


class TaskStates:
    """One episode of a task.

    Attributes:
        environment: Meta-World's, with MuJoCo's `model` and `data`.
    """

    environment: Any

    def __init__(self, task: str, generator: np.random.Generator, *, errors: tuple[float, float] = _ERRORS) -> None:
        """Set up a task.

        Args:
            task: Meta-World's name of it.
            generator: source of every choice, here and later.
            errors: how much the policy errs, from where to where; (0, 0) lets it do as it means to.

        Raises:
            ConfigError: Meta-World is not installed.
        """
        self.environment = task_environment(task, int(generator.integers(2**31)))
        self._wants = scripted_policy(task)
        self._generator = generator
        self._seen, _ = self.environment.reset()
        self._spread = generator.uniform(*errors)
        self._error = np.zeros(4)
        self._step = 0

    def advance(self, step: int) -> None:
        """Go on until so many steps have been made."""
        while self._step < step:
            self._error = _HELD * self._error + self._generator.normal(0.0, self._spread, 4)
            action = np.clip(self._wants(self._seen) + self._error, -1.0, 1.0)
            self._seen, *_ = self.environment.step(action.astype(np.float32))
            self._step += 1


def task_environment(task: str, seed: int) -> Any:
    """Meta-World's environment of a task, whose observations name the goal.

    Raises:
        ConfigError: Meta-World is not installed.
    """
    known = _metaworld("env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    return known[f"{task}-goal-observable"](seed=seed)


def scripted_policy(task: str) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Meta-World's scripted policy of a task: (39,) observation to (4,) action, which may be more than the arm can do.

    Raises:
        ConfigError: Meta-World is not installed.
    """
    policy = _metaworld("policies").ENV_POLICY_MAP[task]()

    def wanted(seen: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with warnings.catch_warnings():  # the policies ask for more than the arm can do, and say so at every step
            warnings.simplefilter("ignore")
            return np.asarray(policy.get_action(seen), dtype=np.float64)

    return wanted


def _metaworld(module: str) -> Any:
    [found] = imported(f"metaworld.{module}", needed_for="Meta-World", extra="metaworld")
    return found
