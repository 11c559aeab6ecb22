"""Put the head of a finished run into the package, where "embedded:NAME" finds it.

    python benchmarks/embed_head.py runs/nyu nyu-deit-tiny --command "spaceclip train …" --license apache-2.0 \\
        --data-license "…" --tower "…" [--trained-on "…"]

Its folder holds the weights in half precision, the config, what matters of the run's record, and a card made from both.
The same run and words give the same bytes. Nothing is written where the record is another head's, where half precision
changes the depth, where all heads together are too large, or where the record names places on this machine. A head that
is there is never replaced: remove its folder first.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spaceclip_plugin import DepthHead
from spaceclip_plugin._checks import text
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin._files import atomic_folder, write_json
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.embedded import catalogue
from spaceclip_plugin.head.model_card import CARD_NAME, CardDetails, ModelCard
from spaceclip_plugin.towers.spec import TowerFeatures
from spaceclip_plugin.training.run.folder import FinishedRun

MAX_DIFFERENCE = 0.01
"""How far, relative to depth or uncertainty, half precision may move any pixel of the probe."""

# Of the run's record and its details: what says how the head came about and how good it is, and no dates or durations.
KEPT = (
    "protocol", "protocol_settings", "recipe", "camera", "train_images", "validation_images", "test_images",
    "best_epoch", "validation", "test", "uncertainty", "familiarity", "head_digest", "head_parameters",
    "host_digest_after", "spaceclip_plugin", "code", "torch", "device",
)  # fmt: skip
KEPT_DETAILS = ("host", "host_weights", "host_revision", "image_hw", "data", "val", "test", "select_on_test")
_PLACE = re.compile(r"""(?:^|[\s'"=(,])(?:~?/\w|[A-Za-z]:[\\/])""")


@dataclass(frozen=True)
class Words:
    """What no file tells.

    Attributes:
        command: the one that trained the head.
        license: of its weights, as the Hub names it.
        data_license: terms of the training data, in a sentence.
        tower: whose the tower's weights are, on which terms, and how those trained on differ from those of the Hub.
        trained_on: instead of the config's, which names lists and folders.
    """

    command: str
    license: str
    data_license: str
    tower: str
    trained_on: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                text(name, value, max_length=2000)


def embed(run: Path, name: str, words: Words) -> Path:
    """Make the embedded head `name` of the head of a run; returns its folder."""
    if not catalogue.is_name(name):
        raise ConfigError(f"a head is called by lower-case words and numbers with hyphens between, got {name!r}")
    finished = FinishedRun.open(run)
    head = DepthHead.from_pretrained(finished.head)
    if finished.record.get("head_digest") != module_digest(head):
        raise ConfigError(f"the record in {str(run)!r} is not that of the head beside it: its head_digest is another")
    if words.trained_on is not None:
        head.config = dataclasses.replace(head.config, trained_on=words.trained_on)
    with atomic_folder(catalogue.FOLDER / name) as folder:
        packed = DepthHead.from_pretrained(copy.deepcopy(head).half().save_pretrained(folder))
        difference = largest_difference(head, packed)
        if not difference <= MAX_DIFFERENCE:
            raise ConfigError(f"half precision moves depth by up to {difference:.2g}, allowed is {MAX_DIFFERENCE}")
        record = cut_record(finished.record, words)
        record["embedded"] = {"head_digest": module_digest(packed), "difference": float(f"{difference:.1g}")}
        check_no_places({**record, "config": head.config.to_dict()})
        write_json(folder / catalogue.RECORD_NAME, record)
        (folder / CARD_NAME).write_text(card(name, packed, record), encoding="utf-8")
        total = sum(map(bytes_of, [folder, *(catalogue.FOLDER / other for other in catalogue.names())]))
        if total > catalogue.MAX_BYTES:
            raise ConfigError(f"all embedded heads would have {total} bytes, allowed are {catalogue.MAX_BYTES}")
    return catalogue.FOLDER / name


def cut_record(record: Mapping[str, Any], words: Words) -> dict[str, Any]:
    """What matters of a run's record, under the same names, with what a person said of it."""
    details = record["details"]
    return {
        "command": words.command,
        "terms": {"head": words.license, "data": words.data_license, "tower": words.tower},
        **{key: record.get(key) for key in KEPT},
        "details": {key: details.get(key) for key in KEPT_DETAILS},
    }


@torch.no_grad()
def largest_difference(head: DepthHead, packed: DepthHead) -> float:
    """Between the depths, and the uncertainties, of random features; of any pixel, relative to the first head's."""
    given = probe(head)
    pairs = zip(maps_of(head, given), maps_of(packed, given), strict=True)
    return max(float(((found - wanted) / wanted).abs().max()) for wanted, found in pairs)


def maps_of(head: DepthHead, given: TowerFeatures) -> list[Tensor]:
    """Depth, and its uncertainty where the head predicts it."""
    output = head(given)
    return [found for found in (output.depth_m, output.uncertainty_m) if found is not None]


def probe(head: DepthHead) -> TowerFeatures:
    """Features of four images that are nowhere, for the taps of a head."""
    random = torch.Generator().manual_seed(0)
    hidden = {tap: torch.randn(4, width, 14, 14, generator=random) for tap, width in head.config.width_of.items()}
    context, pixels = torch.randn(4, head.config.width, generator=random), torch.randn(4, 3, 224, 224, generator=random)
    return TowerFeatures(hidden, context, (224, 224), pixels=pixels)


def check_no_places(record: Mapping[str, Any]) -> None:
    """Refuse absolute paths: the record travels with the package."""
    for value in texts_in(record):
        if _PLACE.search(value):
            raise ConfigError(f"the record names a place on this machine, {value!r}; say it without")


def texts_in(value: object) -> Iterator[str]:
    """Every string within lists and objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (found for inner in value.values() for found in texts_in(inner))
    elif isinstance(value, list | tuple):
        yield from (found for inner in value for found in texts_in(inner))


def bytes_of(folder: Path) -> int:
    """Of all files in the folder of a head."""
    return sum(file.stat().st_size for file in folder.iterdir())


def card(name: str, head: DepthHead, record: Mapping[str, Any]) -> str:
    """The page beside the weights, from what the config and the record say alone."""
    terms, config = record["terms"], head.config
    called = catalogue.PREFIX + name
    details = CardDetails(license=terms["head"], data_license=terms["data"], record=record)
    parameters = sum(parameter.numel() for parameter in head.parameters())
    return f"""{ModelCard(called, config, parameters, details).page()}
## Try it on a photo

```sh
spaceclip predict --head {called} --host {config.base_model} photo.jpg --out depth
```

The tower's weights are not in the package: they come from the Hub, or from a safetensors file (`--host-weights FILE`).

## The tower's weights

{terms["tower"]}

The head carries a fingerprint of the weights it was trained on. Where the host's are others, a warning says in which
blocks and by how much, and `--other-tower error` refuses them.

## How these files were made

```text
{record["command"]}
```

The weights are kept in half precision and computed with in single precision. On random features depth and uncertainty
differ by at most {100 * record["embedded"]["difference"]:.1g} % from those of the head that was trained.
`{catalogue.RECORD_NAME}` has every setting and score.
"""


def main(arguments: list[str] | None = None) -> None:
    """Embed, and say how large it became."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("name", metavar="NAME", help="what the head is called behind embedded:")
    for flag in ("--command", "--license", "--data-license", "--tower"):
        parser.add_argument(flag, required=True, metavar="TEXT")
    parser.add_argument("--trained-on", metavar="TEXT", help="default: as the run named its data")
    args = vars(parser.parse_args(arguments))
    run, name = args.pop("run"), args.pop("name")
    folder = embed(run, name, Words(**args))
    print(f"{catalogue.PREFIX}{name}: {bytes_of(folder)} bytes in {folder}")


if __name__ == "__main__":
    main()
