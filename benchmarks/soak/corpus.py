"""What is sent: photos of every kind, damaged and hostile ones, and requests that are wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from PIL import Image

from benchmarks.hostile_photos import bad_files, encode, mutate, unusual_files
from benchmarks.service import BenchmarkError
from handler.archive import extract_archive

__all__ = ["Expected", "Request", "make_files", "make_requests", "what_is_expected"]

Route = Literal["worker", "gateway"]

_EXPECTED = Path(__file__).with_name("expected.py")
_TOO_MANY_BYTES = 20 * 2**20 + 1
# Requests that take seconds or 20 MB come once in so many.
_RARE = 500


@dataclass(frozen=True, slots=True)
class Expected:
    """What has to come back for one photo.

    Attributes:
        status: HTTP status.
        code: of the error; None for an answer.
        class_id: of the first prediction.
        confidences: of the predictions, the first one first.
    """

    status: int
    code: str | None = None
    class_id: int | None = None
    confidences: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Expected:
        """From what `expected.py` wrote."""
        return cls(**{**data, "confidences": tuple(data.get("confidences", ()))})


@dataclass(frozen=True, slots=True)
class Request:
    """A request and its right answer.

    Attributes:
        kind: what is special about it, for the report.
        route: straight to TorchServe, or through the gateway.
        body: as it is sent.
        expected: one entry per photo; of several, the whole answer is 200 with an entry for each.
        headers: as they are sent.
        query: behind the address.
        is_form: whether the body is a form with photos, and several give several results.
    """

    kind: str
    route: Route
    body: bytes
    expected: tuple[Expected, ...]
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""


def make_files(data: Path | None, count: int, seed: int) -> dict[str, bytes]:
    """Every file that may be sent, by a name that begins with its kind.

    Args:
        data: a folder with photos/, not_cars/ and unseen_cars/; None: pictures are made up.
        count: of the requests.
        seed: of the damage.
    """
    rng = Random(seed)  # noqa: S311  (no secret)
    photos = list(_photos(data, rng))
    files = {f"photo/{number}": photo for number, photo in enumerate(photos)}
    pictures = [Image.open(io.BytesIO(photo)) for photo in photos[:3]]
    unusual = []
    for number, picture in enumerate(pictures):
        for sent in unusual_files(picture.resize((320, 208))):
            unusual.append(sent.data)
            files[f"unusual/{number} {sent.name}"] = sent.data
        for sent in bad_files(picture.resize((320, 208))):
            files[f"bad/{number} {sent.name}"] = sent.data
    originals = [*(file for file in unusual if len(file) < 500_000), *photos]
    for number in range(max(30, count // 8)):
        files[f"mutated/{number}"] = mutate(rng.choice(originals), rng, originals)
    if count < _RARE:
        return files
    files["rare/too many bytes"] = photos[0].ljust(_TOO_MANY_BYTES, b"\0")
    files["rare/almost too many bytes"] = photos[0].ljust(_TOO_MANY_BYTES - 1, b"\0")
    big = pictures[0].convert("RGB").resize((10_000, 10_000))
    files["rare/100 megapixels, progressive JPEG"] = encode(big, "JPEG", progressive=True)
    files["rare/100 megapixels, WebP"] = encode(big, "WEBP", quality=50, method=0)
    del big
    plain = Image.new("RGBA", (10_000, 10_000), (200, 30, 30, 128))
    files["rare/100 megapixels, transparent PNG"] = encode(plain, "PNG", compress_level=1)
    return files


def _photos(data: Path | None, rng: Random) -> Iterator[bytes]:
    if data is None:
        for number in range(60):
            noise = np.random.default_rng(number).integers(0, 256, (6, 9, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((640, 420), Image.Resampling.BICUBIC)
            yield encode(picture, "JPEG", quality=85)
        return
    for folder, count in (("photos", 150), ("not_cars", 60), ("unseen_cars", 40)):
        paths = sorted((data / folder).rglob("*.jpg"))
        for path in rng.sample(paths, min(count, len(paths))):
            yield path.read_bytes()
    # As a phone takes them.
    for path in sorted((data / "photos").glob("*.jpg"))[:4]:
        with Image.open(path) as image:
            yield encode(image.resize((4032, 3024)), "JPEG", quality=90)


def what_is_expected(archive: Path, files: dict[str, bytes], folder: Path) -> dict[str, Expected]:
    """What the archive's own code makes of each file alone; uses `folder` to hand them over.

    Raises:
        ArchiveError: there is no such archive.
        BenchmarkError: it can't be run.
    """
    sent = folder / "files"
    sent.mkdir()
    names = list(files)
    for number, data in enumerate(files.values()):
        (sent / f"{number:05}").write_bytes(data)
    result = folder / "expected.json"
    with extract_archive(archive) as directory:
        finished = subprocess.run(  # noqa: S603  (our own arguments)
            [sys.executable, "-P", _EXPECTED, directory, sent, result],
            cwd=folder, env={"PATH": "/usr/bin:/bin"}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    if finished.returncode != 0:
        raise BenchmarkError(
            f"{archive}'s own code fails over the files:\n{finished.stderr[-2000:]}"
        )
    outcomes = json.loads(result.read_text())
    return {names[int(number)]: Expected.from_json(data) for number, data in outcomes.items()}


def make_requests(
    files: dict[str, bytes], expected: dict[str, Expected], count: int, seed: int
) -> Iterator[Request]:
    """Requests in random order, about half of whose photos are good."""
    rng = Random(seed)  # noqa: S311  (no secret)
    by_kind: dict[str, list[str]] = {}
    for name in files:
        by_kind.setdefault(name.partition("/")[0], []).append(name)

    def pick() -> str:
        kind = rng.choices(["photo", "unusual", "mutated", "bad"], [40, 14, 22, 24])[0]
        return rng.choice(by_kind[kind])

    def raw(name: str, route: Route) -> Request:
        content_type = rng.choice(["application/octet-stream", "image/jpeg", "image/gif"])
        kind = name.partition("/")[0] if not name.startswith("rare") else name
        return Request(kind, route, files[name], (expected[name],), {"Content-Type": content_type})

    for number in range(count):
        route: Route = rng.choice(["worker", "gateway"])
        if number % _RARE == _RARE - 1:
            yield raw(rng.choice(by_kind["rare"]), route)
            continue
        chance = rng.random()
        if chance < 0.05:
            yield _with_a_bad_option(raw(rng.choice(by_kind["photo"]), route), rng)
        elif chance < 0.08:
            yield _with_no_photo(files[rng.choice(by_kind["photo"])])
        elif chance < 0.28 and route == "gateway":
            names = [pick() for _ in range(rng.choice([1, 1, 1, 2, 6]))]
            yield _form([files[name] for name in names], [expected[name] for name in names])
        else:
            yield raw(pick(), route)


def _with_a_bad_option(request: Request, rng: Random) -> Request:
    value = rng.choice(["0", "21", "-1", "3.5", "many", "9" * 400])
    refused = (Expected(422, "invalid_option"),)
    if request.route == "worker":
        headers = {**request.headers, "top_k": value}
        return Request("bad option", "worker", request.body, refused, headers)
    query = rng.choice([f"?top_k={value}", "?topk=3"])
    return Request("bad option", "gateway", request.body, refused, request.headers, query)


def _with_no_photo(body: bytes) -> Request:
    """A photo under a type that photos don't have: only the gateway looks at types."""
    refused = (Expected(415, "unsupported_media_type"),)
    return Request("bad type", "gateway", body, refused, {"Content-Type": "application/pdf"})


def _form(photos: Sequence[bytes], expected: Sequence[Expected]) -> Request:
    boundary = "soak-3f9a1c7e5b"
    parts = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{number}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + photo
        + b"\r\n"
        for number, photo in enumerate(photos)
    )
    kind = "form" if len(photos) == 1 else "form of several"
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    body = parts + f"--{boundary}--\r\n".encode()
    return Request(kind, "gateway", body, tuple(expected), headers)
