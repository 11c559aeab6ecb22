"""The page that travels with a head: what it is, how good it is, how to use it; written from the run's record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaceclip_plugin import __version__
from spaceclip_plugin._checks import text
from spaceclip_plugin.depth.camera import focal_in_words
from spaceclip_plugin.hub.client import LIBRARY_NAME

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from spaceclip_plugin.head.config import DepthHeadConfig

CARD_NAME = "README.md"
PICTURE_NAME = "depth.png"
PIPELINE_TAG = "depth-estimation"

_METRICS = {
    "abs_rel": "AbsRel ↓",
    "rmse": "RMSE (m) ↓",
    "silog": "SILog ↓",
    "delta1": "δ1 ↑",
    "delta2": "δ2 ↑",
    "delta3": "δ3 ↑",
}
_IN_METADATA = ("abs_rel", "rmse", "delta1")
_HUB_HOST = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[\w.-]+)", re.ASCII)
_FORWARDS = "one forward, no flip, metric scale, never aligned"


@dataclass(frozen=True, kw_only=True)
class CardDetails:
    """What a card says of a head beside what the head itself tells.

    Attributes:
        license: of the weights, as the Hub names it ("apache-2.0", "cc-by-nc-sa-4.0"); None: not said.
        data_license: terms of the training data, in a sentence; None: not said.
        datasets: ids of the training data on the Hub.
        record: what `run.json` of the run that trained the head says; the card tells its figures. None: not known.
        picture: a PNG for the card; a run leaves `validation.png`.

    Raises:
        ConfigError: a term is not a line of text.

    Example:
        >>> CardDetails(license="apache-2.0", datasets=("org/kitchens",)).license
        'apache-2.0'
    """

    license: str | None = None
    data_license: str | None = None
    datasets: Sequence[str] = ()
    record: Mapping[str, Any] | None = None
    picture: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("license", "data_license"):
            if getattr(self, name) is not None:
                text(name, getattr(self, name))
        for name in self.datasets:
            text("datasets", name)


@dataclass(frozen=True)
class ModelCard:
    """All that a card says of the head in `repo`, "org/name", or in a folder of that path."""

    repo: str
    config: DepthHeadConfig
    parameters: int
    details: CardDetails
    title: str | None = None  # None: the repository's own name
    picture_name: str = PICTURE_NAME  # of the picture, beside the card

    def text(self) -> str:
        """The card: metadata for the Hub, then Markdown."""
        return f"---\n{self._metadata()}\n---\n\n{self.page()}"

    def page(self) -> str:
        """The card without the metadata."""
        parts = [self._opening(), self._use(), self._head(), self._figures(), self._training(), self._limits()]
        return "\n\n".join([*parts, self._licence()]) + "\n"

    def _metadata(self) -> str:
        from huggingface_hub import ModelCardData

        base = _HUB_HOST.fullmatch(self.config.base_model or "")
        data = ModelCardData(
            library_name=LIBRARY_NAME,
            license=self.details.license,
            tags=["depth", "metric-depth", "robotics", "spaceclip", self.config.architecture],
            base_model=base and base.group(1),
            datasets=list(self.details.datasets) or None,
            metrics=list(_IN_METADATA) if self._scores() else None,
            eval_results=list(self._eval_results()) or None,
            model_name=self.repo if self._scores() else None,
            pipeline_tag=PIPELINE_TAG,
            base_model_relation="adapter" if base else None,
        )
        return str(data.to_yaml()).strip()

    def _eval_results(self) -> Iterable[EvalResult]:
        from huggingface_hub import EvalResult

        for split, scores in self._scores().items():
            name = self._data(split)
            for metric in _IN_METADATA:
                yield EvalResult(
                    task_type=PIPELINE_TAG,
                    dataset_type=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or split,
                    dataset_name=name,
                    dataset_split=split,
                    metric_type=metric,
                    metric_value=round(scores[metric], 4),
                    metric_name=f"{_METRICS[metric][:-2]}, protocol {self._record['protocol']}, {_FORWARDS}",
                )

    def _opening(self) -> str:
        base = f"`{plain(self.config.base_model)}`" if self.config.base_model else "a frozen vision tower"
        parts = [
            f"# {plain(self.title or self.repo.split('/')[-1])}",
            f"A metric depth head for {base}: it reads the hidden states that the frozen tower computes anyway, inside "
            "a vision-language-action model or alone, and gives dense depth in metres. The tower is not part of it. "
            f"Made with {LIBRARY_NAME}, after [SPACE-CLIP](https://arxiv.org/abs/2601.17657).",
        ]
        if self.config.trained_on is None:
            parts.insert(1, "**Not trained: its weights are random and its depth means nothing.**")
        if self.details.picture is not None:
            parts.append(f"![Photo, true depth, predicted depth and error of validation images]({self.picture_name})")
        return "\n\n".join(parts)

    def _use(self) -> str:
        uncertain = getattr(self.config.options, "uncertainty", False)
        uncertainty = "    frame.uncertainty_m  # (B, H, W) standard deviation in metres\n" if uncertain else ""
        return f"""## Use it

```python
from spaceclip_plugin import attach_depth_head  # pip install spaceclip-plugin

depth = attach_depth_head(host, "{self.repo}")  # host: your frozen model with this tower inside
host(images)  # unchanged, bit for bit
for frame in depth.read():
    frame.depth_m  # (B, H, W) float32 metres along the optical axis
{uncertainty}```"""

    def _head(self) -> str:
        config = self.config
        revision = f" at `{plain(config.base_model_revision)}`" if config.base_model_revision else ""
        near, far = config.depth_range_m
        fractions = config.tap_fractions
        depths = "" if fractions is None else f" ({', '.join(f'{part:.2f}' for part in fractions)} of its depth)"
        rows = {
            "architecture": f"`{config.architecture}`, {self.parameters / 1e6:.2f} M parameters",
            "tower": f"`{plain(config.base_model or 'not said')}`{revision}",
            "width, blocks": f"{config.width}, {'not known' if config.blocks is None else config.blocks}",
            "hidden states read": f"{', '.join(map(str, config.options.taps))}{depths}",
            "context read": f"{config.context}" if config.options.uses_context else "none",
            "input mean, std": f"{_numbers(config.image_mean)}, {_numbers(config.image_std)}",
            "fingerprint of the tower": "not known" if config.tower_fingerprint is None else "carried",
            "made for depths": f"{near:g} to {far:g} m",
            "its camera": self._camera(),
            "its images": f"prepared by `{plain(config.preparation)}`" if config.preparation else "not known",
            "knows unfamiliar images": "no" if config.familiarity is None else "yes",
            "written by": f"{LIBRARY_NAME} {__version__}",
        }
        return "\n".join(["## What it is", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])

    def _camera(self) -> str:
        if self.config.focal_length is None:
            return "not known"
        told = "assumed: the training data told none" if self.config.focal_length_assumed else "told by the data"
        return f"focal length {focal_in_words(self.config.focal_length)}, {told}"

    def _figures(self) -> str:
        title = "## How good it is\n\n"
        if not self._scores():
            return title + "No run record came with these weights: nothing is known here of their accuracy."
        rows = [f"| data | images | {' | '.join(_METRICS.values())} |", f"|---|---|{'---|' * len(_METRICS)}"]
        for split, values in self._scores().items():
            numbers = " | ".join(f"{values[name]:.4f}" for name in _METRICS)
            rows.append(f"| {plain(self._data(split))} ({split}) | {self._record[f'{split}_images']} | {numbers} |")
        parts = [
            f"Protocol `{self._record['protocol']}`, {_FORWARDS}; means over images.",
            "\n".join(rows),
            "The best epoch was chosen on the validation images, so their figures flatter it.",
        ]
        if self._details.get("validated_on") == "a teacher's depth":
            parts.append(
                "**No depth was measured for validation**: its figures compare the head with its teacher, not with the "
                "truth."
            )
        checked = (self._record.get("uncertainty") or {}).get("cross_checked")
        if checked:
            held = ", ".join(f"{100 * float(level):.0f} %: {100 * share:.1f} %" for level, share in checked.items())
            parts.append(
                f"Pixels inside the predicted intervals, fitted on one half of them and measured on the other: {held}."
            )
        return title + "\n\n".join(parts)

    def _training(self) -> str:
        trained_on = plain(self.config.trained_on or "nothing")
        if not self._record:
            return f"## How it was trained\n\nOn {trained_on}."
        recipe = self._record["recipe"]
        prepared = self._record.get("preparation")
        photos = f"\nPhotos were prepared for the tower by `{plain(prepared)}`." if prepared else ""
        weights = self._record.get("details", {}).get("host_weights")
        of_weights = f" (its weights: `{plain(weights)}`)" if weights else ""
        return f"""## How it was trained

On {trained_on}, {recipe["epochs"]} epochs of batches of {recipe["batch_size"]}, loss `{recipe["loss"]}`, \
augmentation `{recipe["augmentation"]}`, seed {recipe["seed"]}; best epoch {self._record["best_epoch"]}.
The tower was frozen and is unchanged: SHA-256 `{self._record["host_digest_after"]}` before and after\
{of_weights}.{photos}"""

    def _limits(self) -> str:
        near, far = self.config.depth_range_m
        if self.config.tower_fingerprint is None:
            others = "fine-tuned weights of the same size are not noticed"
        else:
            others = "other weights of the same size (fine-tuned, adapted) are warned of"
        return f"""## Where it ends

- It reads the tower it was trained on and no other; a tower of another size is refused, {others} and make the depth \
worse.
- It knows depths from {near:g} to {far:g} m, and scenes like those it was trained on. {self._strangers()}
- {self._lenses()}
- {self._images()}
- It is learnt, not measured: do not let it be the only thing between a robot and a person."""

    def _strangers(self) -> str:
        if self.config.familiarity is None:
            return "It does not tell which images are of another kind."
        return (
            "Of an image of another kind `frame.familiarity` is near 0, and the uncertainty that of one who knows "
            "nothing; below 0.05 do not use its depth."
        )

    def _lenses(self) -> str:
        if self.config.focal_length is None:
            return (
                "It does not tell the focal length of the camera that its metres are of: another one gives another "
                "scale."
            )
        brought = (
            "Its metres are those of a camera of the focal length above; give your camera's intrinsics (`cameras=` of "
            "`attach_depth_head`, or `frame.with_intrinsics`) and they are brought to yours."
        )
        if not self.config.focal_length_assumed:
            return brought
        return f"{brought} No training data told that focal length: the scale may be off by one factor."

    def _images(self) -> str:
        if self.config.preparation is None:
            return (
                "It does not tell how its training images were prepared for the tower: other images give other metres."
            )
        return (
            f"It learnt on images prepared by `{plain(self.config.preparation)}`; others give other metres, and are "
            "warned of where the host tells how it prepares them."
        )

    def _licence(self) -> str:
        taught = "".join(f" Teacher{_at(card.get('revision'))}: {plain(str(card['terms']))}" for card in self._teachers)
        return licence(self.details) + taught

    @property
    def _details(self) -> Mapping[str, Any]:
        return self._record.get("details") or {}

    @property
    def _teachers(self) -> Sequence[Mapping[str, Any]]:
        return self._details.get("teachers") or ()

    @property
    def _record(self) -> Mapping[str, Any]:
        return self.details.record or {}

    def _scores(self) -> dict[str, Mapping[str, float]]:
        return {split: self._record[split] for split in ("validation", "test") if self._record.get(split)}

    def _data(self, split: str) -> str:
        details = self._record.get("details", {})
        return str(details.get({"validation": "val"}.get(split, split)) or f"{split} images")


def licence(details: CardDetails) -> str:
    """The section of a card on the terms of weights and data."""
    weights, data = details.license, details.data_license
    of_weights = "the publisher stated no licence." if weights is None else f"{plain(weights)}."
    own_terms = "its own terms apply (NYU Depth V2 is for research, KITTI is CC BY-NC-SA 3.0)."
    return f"## Licence\n\nWeights: {of_weights} Training data: {own_terms if data is None else plain(data)}"


def _at(revision: object) -> str:
    return f" at `{plain(str(revision))}`" if revision else ""


def _numbers(values: Iterable[float] | None) -> str:
    return "not known" if values is None else "(" + " ".join(f"{value:.4g}" for value in values) + ")"


def plain(line: str) -> str:
    """Text of others inside Markdown: no code, table cell or tag ends early."""
    return line.replace("`", "'").replace("|", "\\|").replace("<", "&lt;")
