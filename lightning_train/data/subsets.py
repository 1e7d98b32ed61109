"""Smaller and unbalanced versions of a data set, for experiments; the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

from handler.labels import CarLabel
from lightning_train.data.samples import Sample
from lightning_train.data.splits import by_class, name_hash, ranked

__all__ = ["choose_classes", "choose_photos"]


def choose_classes(labels: Sequence[CarLabel], max_classes: int | None) -> list[CarLabel]:
    """As many of the classes, drawn by their names, in their order (and with their ids)."""
    drawn = sorted(labels, key=lambda label: name_hash(label.label))[:max_classes]
    return sorted(drawn, key=lambda label: label.class_id)


def choose_photos(
    samples: Sequence[Sample],
    classes: int,
    photos_per_class: int | None,
    long_tail: float | None,
) -> tuple[Sample, ...]:
    """Thin the training photos out, drawn by their names (see `splits.ranked`).

    Args:
        samples: training photos with class ids 0…classes-1.
        classes: C.
        photos_per_class: at most so many of each class.
        long_tail: imbalance ratio: class k keeps n_max · ratio^(-k/(C-1)) photos, at least one
            (Cui et al. 2019, arXiv 1901.05555, section 5.1), n_max being the largest class's.

    Returns:
        Those kept, in their order.
    """
    groups = by_class(samples)
    if photos_per_class is not None:
        groups = {k: ranked(group)[:photos_per_class] for k, group in groups.items()}
    if long_tail is not None:
        most = max(map(len, groups.values()), default=0)
        groups = {
            k: ranked(group)[: max(int(most * long_tail ** (-k / max(classes - 1, 1))), 1)]
            for k, group in groups.items()
        }
    kept = {sample.path for group in groups.values() for sample in group}
    return tuple(sample for sample in samples if sample.path in kept)
