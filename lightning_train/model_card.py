"""The model card: what an archive is, from its own manifest, so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.manifest import ModelManifest
from lightning_train.evaluation.report import figure_name, format_figure
from lightning_train.run_history import history_table

__all__ = ["few_identified", "model_card"]

# That all of so many are right leaves room for one in ten wrong (3 / N, the rule of three).
_ENOUGH = 30

_CARD = """\
# {name} {version}

Written by `make archive` from the archive's own `model.json`; do not edit.

`{network}`, {runs_on}: a photo of a car in, make, model and year out, of
{classes} car models. Input: RGB squashed to {size}×{size} pixels.

## What it was trained on

{trained_on}

## How good it is

On {validation_photos} validation photos: those that the data set brings as `val`, or else a
stratified tenth of its training photos. No weight was fitted to them. {measured}:

{validation}

{cost}

## How honest it is

Logits are divided by a temperature of {temperature:.3f}. Which score tells `identified` from
`uncertain` was measured; the threshold of each is where {precision:g} % of the validation photos
from there on are answered rightly at the first look:

{known_scores}

The one that keeps most photos and fewest unseen cars is used: `{known_score}`, from
{known_threshold:.3f} on.{detector}{few}

All of this was fitted on the same validation photos, so the first column says what was asked for;
for the second, temperature and thresholds were fitted on every second photo and the others
answered, both ways:

{honesty}
{outside}{scenes}
## What it is not for

- Cars of models it does not know ({unknown}): it should
  say `uncertain`, and names a wrong model more often the more alike they look.
- Photos of a whole scene with a very small car in it: it was trained on crops. Crop to the car.
- Deciding anything about a person. It reads no number plates and knows no owners.

## How it was made
{history}
```yaml
{recipe}
```

`make train`, then `make archive`; checkpoint SHA-256 `{checkpoint_sha256}`, built {built}.

## Licence

{licence}
"""

_OPENVINO = {
    "runs_on": "8-bit, for OpenVINO on a CPU",
    "measured": "The float network and the 8-bit engine as packaged",
    "cost": """\
8-bit less float: {int8_minus_float:+.2f} points of top-1; both give the same answer for
{agreement:.1f} % of the photos.""",
}
_TORCH = {
    "runs_on": "16-bit, for torch on a CUDA GPU",
    "measured": "The engine as packaged, computing in {computes_in}",
    "cost": """\
It gives the same answer as the checkpoint's float32 network for {agreement:.1f} % of the
photos.""",
}

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
    "trained_on": "{training_photos:,} labelled photos of your own, none of them of validation.",
    "unknown": "all that are not in `labels.csv`",
    "licence": "The code is MIT. Whose the photos are decides what the weights may be used for.",
}

_DETECTOR = """ A linear detector on the
network's features, fitted on every second validation photo and half of the photos of `not_cars`,
says `not_a_car`; it was set to keep {keep_cars:g} % of the other validation photos.

A closer look at a part of a photo, which the worker chose itself, is another guess: there a car is
`identified` from {found_threshold:.3f} on, so that {precision:g} % of the photos as answered and of
the closer looks at whole scenes (below, with other surroundings) are right."""

_OUTSIDE = """
Photos of anything else: `not_cars` shows no vehicle (the half of the folder that nothing was fitted
to), `unseen_cars` real cars of models that are not among the classes (the choice of the score above
saw them, no threshold did). The AUROC says how well a score tells them from the validation photos.

{table}
"""

_SCENES = """
## How well it reads whole scenes

Crops of validation photos, pasted onto photos of `not_cars` (the half that nothing was fitted to):
without a closer look, and as the worker answers, which looks again, up to twice, at where it sees a
car. Real scenes are harder: other cars stand around.

{table}
"""


def model_card(
    manifest: ModelManifest, *, precision: float, keep_cars: float, recipe: str | None
) -> str:
    """Markdown that describes an archive.

    Args:
        manifest: of the archive.
        precision: the share of right answers that the threshold of `identified` was fitted for.
        keep_cars: the share of cars that the car detector was fitted to keep.
        recipe: text of the configuration it was trained with, None if unknown.
    """
    figures = manifest.metrics
    outside, scenes = figures["outside"], figures.get("scenes")
    detector = "not_cars" in outside
    runs = manifest.provenance.get("runs", [])
    computes_in = next(n for n in figures["validation"] if f"{n}_float_agreement" in figures)
    engine_facts = {
        "computes_in": computes_in,
        "agreement": 100 * figures[f"{computes_in}_float_agreement"],
        "int8_minus_float": 100 * figures.get("int8_minus_float_top1", 0),
    }
    engine = _TORCH if manifest.engine == "torch" else _OPENVINO
    known = _STANFORD_CARS if manifest.provenance["data"] == "Stanford Cars 196" else _OWN_CARS
    return _CARD.format(
        **{name: text.format(**manifest.provenance) for name, text in known.items()},
        **{name: text.format(**engine_facts) for name, text in engine.items()},
        name=manifest.name,
        version=manifest.version,
        network=manifest.network,
        size=manifest.preprocessing.size,
        validation=_markdown_table(figures["validation"]),
        temperature=manifest.temperature,
        known_scores=_markdown_table(figures["known_scores"]),
        known_score=manifest.known.name,
        known_threshold=manifest.known.threshold,
        precision=100 * precision,
        few=f"\n\n**{few}**" if (few := few_identified(manifest, precision)) else "",
        detector=_DETECTOR.format(
            keep_cars=100 * keep_cars,
            found_threshold=manifest.known.threshold + manifest.known.stricter_if_found,
            precision=100 * precision,
        )
        if detector
        else "",
        honesty=_markdown_table(
            {"fitted and measured": figures["honesty"], "cross-fitted": figures["cross_fitted"]}
        ),
        outside=_OUTSIDE.format(table=_markdown_table(outside)) if outside else "",
        scenes=_SCENES.format(table=_markdown_table(scenes)) if scenes else "",
        recipe=(recipe or "# not recorded").strip(),
        history=f"\n{history_table(runs)}\n" if runs else "",
        **manifest.provenance,
    )


def few_identified(manifest: ModelManifest, precision: float) -> str | None:
    """A warning where the threshold of `identified` rests on few photos, None where it does not.

    Args:
        manifest: of the archive, measured.
        precision: the share of right answers that the threshold was fitted for.
    """
    photos = manifest.provenance["validation_photos"]
    share = manifest.metrics["known_scores"][manifest.known.name]["identified"]
    identified = round(share * photos)
    if identified >= _ENOUGH:
        return None
    return (
        f"Only {identified} of {photos} validation photos are answered `identified`: that "
        f"{100 * precision:g} % of such answers are right is then little more than a guess. Give "
        "more validation photos: in a `val` of your own, or more training photos, of which a tenth "
        "is held out."
    )


def _markdown_table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """Figures in rows, those of the first column; a dash where another has none."""
    names = list(next(iter(columns.values())))

    def cell(name: str, column: Mapping[str, Any]) -> str:
        return format_figure(name, column[name]) if name in column else "–"

    rows = [
        ["", *columns],
        ["---", *("--:" for _ in columns)],
        *(
            [figure_name(name), *(cell(name, column) for column in columns.values())]
            for name in names
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
