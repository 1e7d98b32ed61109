"""The model card: what an archive is, from its own manifest, so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.manifest import ModelManifest
from lightning_train.report import figure_name, format_figure

__all__ = ["model_card"]

_CARD = """\
# {name} {version}

Written by `make archive` from the archive's own `model.json`; do not edit.

`{network}`, 8-bit, for OpenVINO on a CPU: a photo of a car in, make, model and year out, of
{classes} car models. Input: RGB squashed to {size}×{size} pixels.

## What it was trained on

{training_photos:,} labelled photos: the official training split of
[Stanford Cars 196](#licence), cropped to the car, less the {validation_photos} validation photos
below. Nothing in it is newer than 2012, and most of it was sold in the United States.

## How good it is

On the {validation_photos} validation photos, a stratified tenth of the official training split
that training never saw. The float network and the 8-bit engine as packaged:

{validation}

8-bit less float: {int8_minus_float:+.2f} points of top-1; both give the same answer for
{agreement:.1f} % of the photos. The official test split was not looked at.

## How honest it is

Logits are divided by a temperature of {temperature:.3f}, fitted on the validation photos; so
is the lowest confidence of `identified`, {min_confidence:.2f}, from which on {precision:.0f} % of
the answers are right. Below it a car is `uncertain`.{detector}

{honesty}
{outside}
## What it is not for

- Cars of models it does not know (anything after 2012, most of the world's cars): it says
  `uncertain` to most of them and a wrong model to others, as measured above.
- Photos of a whole scene with a small car in it: it was trained on crops. Crop to the car.
- Deciding anything about a person. It reads no number plates and knows no owners.

## How it was made

```yaml
{recipe}
```

`make train CONFIG=…` with the configuration above, then `make archive`; checkpoint SHA-256
`{checkpoint_sha256}`, built {built}.

## Licence

The code is MIT. The weights were trained on Stanford Cars (Krause et al. 2013), which is for
non-commercial research: so are they.
"""

_DETECTOR = """ A linear detector on the network's
features, fitted on every second validation photo and every second photo of `not_cars`, says
`not_a_car`; on the other validation photos it keeps {keep_cars:.0f} % of the cars."""

_OUTSIDE = """
Photos of anything else, none of them used to fit these numbers: `not_cars` shows no vehicle
(the other half), `unseen_cars` real cars of models that are not among the classes. The AUROC says
how well the score tells them from validation photos.

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
    return _CARD.format(
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
