"""In which order episodes come, and that each is its own."""

from __future__ import annotations

from collections import Counter

import pytest

from spaceclip_worlds.metaworld.episode import FRAMES, Episode, episode_of
from spaceclip_worlds.metaworld.tasks import SPLITS, TEST_TASKS, TRAINING_TASKS


def episodes(count: int, *, seed: int = 0, split: str = "train") -> list[Episode]:
    return [episode_of(index, seed=seed, split=split, tasks=SPLITS[split]) for index in range(0, count, FRAMES)]


def test_pictures_of_an_episode_follow_each_other() -> None:
    numbered = [episode_of(index, seed=1, split="test", tasks=TEST_TASKS) for index in range(8 * FRAMES)]
    assert [numbered.index(episode) for episode in numbered] == [
        index - index % FRAMES for index in range(len(numbered))
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_comes_once_before_any_comes_twice(split: str) -> None:
    tasks = SPLITS[split]
    found = episodes(3 * len(tasks) * FRAMES, split=split)
    for visit in range(3):
        turn = found[visit * len(tasks) : (visit + 1) * len(tasks)]
        assert {episode.visit for episode in turn} == {visit}
        assert Counter(episode.task for episode in turn) == Counter(tasks)
    assert [episode.task for episode in found[: len(tasks)]] != [episode.task for episode in found[-len(tasks) :]]


def test_seeds_and_splits_share_no_choice() -> None:
    # 2**32 reads as the words (0, 1): sloppy seeding would make its episodes those of another seed.
    chosen = {
        Episode(seed, split, task, visit).generator().integers(2**62)
        for seed in (0, 1, 2**32)
        for split in ("train", "validation")
        for task in TRAINING_TASKS[:4]
        for visit in (0, 1, 300)
    }
    assert len(chosen) == 3 * 2 * 4 * 3


def test_an_episode_does_not_depend_on_which_other_tasks_are_wanted() -> None:
    few = episode_of(5, seed=7, split="train", tasks=("reach-v3",))
    [same] = [episode for episode in episodes(80 * FRAMES, seed=7) if (episode.task, episode.visit) == ("reach-v3", 1)]
    assert few == same
    assert few.generator().integers(2**62) == same.generator().integers(2**62)
