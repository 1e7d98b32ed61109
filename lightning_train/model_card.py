"""The model card: what an archive is, from its own manifest, so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.manifest import ModelManifest
from lightning_train.evaluation.report import figure_name, format_figure

__all__ = ["model_card"]

_CARD = """\
# {name} {version}

Written by `make archive` from the archive's own `model.json`; do not edit.

`{network}`, 8-bit, for OpenVINO on a CPU: a photo of a car in, make, model and year out, of
{classes} car models. Input: RGB squashed to {size}×{size} pixels.

## What it was trained on

{trained_on}

## How good it is

On {validation_photos} validation photos, a stratified tenth of the training photos that no weight
was fitted to. The float network and the 8-bit engine as packaged:

{validation}

8-bit less float: {int8_minus_float:+.2f} points of top-1; both give the same answer for
{agreement:.1f} % of the photos.

## How honest it is

Logits are divided by a temperature of {temperature:.3f}. Below a confidence of {min_confidence:.2f}
a car is `uncertain`; from there on {precision:g} % of the answers are right.{detector} All of
this was fitted on the same validation photos, so this table says what was asked for:

{honesty}
{outside}
## What it is not for

- Cars of models it does not know ({unknown}): it should
  say `uncertain`, and names a wrong model more often the more alike they look.
- Photos of a whole scene with a small car in it: it was trained on crops. Crop to the car.
- Deciding anything about a person. It reads no number plates and knows no owners.

## How it was made

```yaml
{recipe}
```

`make train`, then `make archive`; checkpoint SHA-256 `{checkpoint_sha256}`, built {built}.

## Licence

{licence}
"""

_STANFORD_CARS = {
    "trained_on": """\
{training_photos:,} labelled photos: the official training split of
[Stanford Cars 196](#licence), cropped to the car, less the {validation_photos} validation photos
below. Nothing in it is newer than 2012, and most of it was sold in the United States.""",
    "unknown": "anything after 2012, most of the world's cars",
    "licence": """\
The code is MIT. The weights were trained on Stanford Cars (Krause et al. 2013), which is for
non-commercial research: so are they.""",
}
_OWN_CARS = {
    "trained_on": "{training_photos:,} labelled photos of your own, less those of validation.",
    "unknown": "all that are not in `labels.csv`",
    "licence": "The code is MIT. Whose the photos are decides what the weights may be used for.",
}

_DETECTOR = """ A linear detector on the
network's features, fitted on every second validation photo and every second photo of `not_cars`,
says `not_a_car`; it was set to keep {keep_cars:g} % of the other validation photos."""

_OUTSIDE = """
Photos of anything else, which nothing was fitted to: `not_cars` shows no vehicle (the other half of
the folder), `unseen_cars` real cars of models that are not among the classes. The AUROC says how
well the score tells them from the validation photos.

{table}
"""


def model_card(
    manifest: ModelManifest, *, precision: float, keep_cars: float, recipe: str | None
) -> str:
    """Markdown that describes an archive.

    Args:
        manifest: of the archive.
        precision: the share of right answers that `min_confidence` was fitted for.
        keep_cars: the share of cars that the car detector was fitted to keep.
        recipe: text of the configuration it was trained with, None if unknown.
    """
    figures = manifest.metrics
    outside = figures["outside"]
    detector = "not_cars" in outside
    known = _STANFORD_CARS if manifest.provenance["data"] == "Stanford Cars 196" else _OWN_CARS
    return _CARD.format(
        **{name: text.format(**manifest.provenance) for name, text in known.items()},
        name=manifest.name,
        version=manifest.version,
        network=manifest.network,
        size=manifest.preprocessing.size,
        validation=_markdown_table(figures["validation"]),
        int8_minus_float=100 * figures["int8_minus_float_top1"],
        agreement=100 * figures["int8_float_agreement"],
        temperature=manifest.temperature,
        min_confidence=manifest.min_confidence,
        precision=100 * precision,
        detector=_DETECTOR.format(keep_cars=100 * keep_cars) if detector else "",
        honesty=_markdown_table({"validation photos": figures["honesty"]}),
        outside=_OUTSIDE.format(table=_markdown_table(outside)) if outside else "",
        recipe=(recipe or "# not recorded").strip(),
        **manifest.provenance,
    )


def _markdown_table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    names = list(next(iter(columns.values())))
    rows = [
        ["", *columns],
        ["---", *("--:" for _ in columns)],
        *(
            [figure_name(name), *(format_figure(name, column[name]) for column in columns.values())]
            for name in names
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
