"""Toy cars on disk, in all layouts: colours instead of cars, real image files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

TOY_CLASSES = ["Audi TTS Coupe 2012", "BMW X5 SUV 2007", "Ram C/V Cargo Van Minivan 2012"]
_COLORS = [(220, 30, 30), (30, 200, 30), (30, 30, 220)]
SIZE = (96, 64)
BOX = (20, 10, 80, 50)  # 1-based, inclusive, as the devkit writes it


def toy_photo(class_id: int, seed: int) -> Image.Image:
    """A car-coloured box on noise, [64, 96]."""
    noise = np.random.default_rng(seed).integers(0, 60, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    left, top, right, bottom = BOX
    noise[top - 1 : bottom, left - 1 : right] += np.array(_COLORS[class_id], dtype=np.uint8) // 2
    return Image.fromarray(noise)


def write_other_photos(folder: Path, count: int, name: str = "{:02d}.png") -> None:
    """Photos of stripes, each turned otherwise, into a new folder."""
    folder.mkdir()
    stripes = np.indices((60, 60)).sum(axis=0) % 12 * 20
    for number in range(count):
        pixels = np.roll(stripes, number, axis=0).astype(np.uint8)
        Image.fromarray(pixels).rotate(number).save(folder / name.format(number))


def write_devkit(
    root: Path, per_class: int = 20, split: str = "train", *, whole_box: bool = False
) -> Path:
    """Write the devkit layout under root/stanford_cars and return root."""
    base = root / "stanford_cars"
    folder = base / f"cars_{split}"
    folder.mkdir(parents=True)
    (base / "devkit").mkdir(exist_ok=True)
    rows = []
    # Classes alternate, as in the real annotations, where they are shuffled.
    for number, (_, class_id) in enumerate(itertools.product(range(per_class), range(3)), 1):
        name = f"{number:05d}.jpg"
        toy_photo(class_id, number).save(folder / name, quality=95)
        box = (1, 1, *SIZE) if whole_box else BOX
        rows.append((*box, class_id + 1, name))
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    annotations = np.array(rows, dtype=[(field, object) for field in fields])
    where = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    scipy.io.savemat(base / where, {"annotations": annotations})
    names = np.array(TOY_CLASSES, dtype=object)
    scipy.io.savemat(base / "devkit/cars_meta.mat", {"class_names": names})
    return root


def write_class_folders(root: Path, per_class: int = 20, split: str = "train") -> Path:
    """Write the same photos under the same file names as class folders and return root."""
    for number, (_, class_id) in enumerate(itertools.product(range(per_class), range(3)), 1):
        folder = root / split / TOY_CLASSES[class_id].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        toy_photo(class_id, number).save(folder / f"{number:05d}.jpg", quality=95)
    return root


OWN_CARS = [
    ("Alfa Romeo", "Giulia", "Sedan", 2020),
    ("DS Automobiles", "DS 3 Crossback", "", 2019),  # a make that no list knows, and no body
    ("Škoda", "Octavia", "Wagon", 2016),
]


def write_table(root: Path, cars: list[tuple[str, str, str, int]], photos: Iterable[int]) -> Path:
    """Write the cars as photos with a cars.csv, so many photos of each, and return root."""
    folder = root / "Fotos für Übungen"
    folder.mkdir(parents=True)
    lines = ["file,make,model,body,year"]
    for class_id, (car, count) in enumerate(zip(cars, photos, strict=True)):
        for number in range(count):
            file = folder / f"{car[1]} №{number}.png"
            toy_photo(class_id, 100 * class_id + number).save(file)
            lines.append(",".join(map(str, (file.relative_to(root), *car))))
    (root / "cars.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
