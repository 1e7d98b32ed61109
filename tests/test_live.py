"""The whole service over HTTP: real TorchServe, real archive, whatever a caller may send."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pillow_heif
import pytest
import requests
from live_stack import LiveStack
from PIL import Image

from client import Answer, CarIdentifierClient

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 2**20

pillow_heif.register_heif_opener()


def picture(width: int = 640, height: int = 480) -> Image.Image:
    """A colourful picture without any symmetry: turned or mirrored it is another one."""
    bands = [
        Image.linear_gradient("L").resize((width, height)),
        Image.linear_gradient("L").rotate(90).resize((width, height)),
        Image.radial_gradient("L").resize((width, height)),
    ]
    return Image.merge("RGB", bands)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(picture(), "JPEG", quality=95)


def post(stack: LiveStack, *files: bytes, **request: object) -> requests.Response:
    form = [("file", (f"photo-{index}", data)) for index, data in enumerate(files)]
    return requests.post(f"{stack.url}/v1/identify", files=form, timeout=60, **request)


def post_raw(stack: LiveStack, body: bytes, content_type: str = "image/jpeg") -> requests.Response:
    headers = {"Content-Type": content_type}
    return requests.post(f"{stack.url}/v1/identify", data=body, headers=headers, timeout=60)


@pytest.fixture(autouse=True)
def still_answers(live_stack: LiveStack) -> object:
    """Whatever a test sent, the next photo is answered."""
    yield
    assert post(live_stack, JPEG).status_code == 200
    assert requests.get(f"{live_stack.url}/readyz", timeout=30).status_code == 200


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me a quarter clockwise"
    sideways = picture().transpose(Image.Transpose.ROTATE_90)
    return encoded(sideways, "JPEG", quality=95, exif=exif)


@pytest.mark.parametrize(
    ("photo", "tolerance"),
    [
        # Differing by no more than the format's own losses.
        pytest.param(rotated_by_exif, 0.05, id="rotated by EXIF"),
        pytest.param(lambda: encoded(picture(), "PNG"), 0.05, id="PNG"),
        pytest.param(lambda: encoded(picture(), "WEBP", lossless=True), 0.05, id="WebP"),
        pytest.param(lambda: encoded(picture(), "HEIF", quality=95), 0.1, id="HEIC"),
        pytest.param(lambda: encoded(picture().convert("RGBA"), "PNG"), 0.05, id="transparency"),
        pytest.param(lambda: encoded(picture().convert("CMYK"), "JPEG"), 1, id="CMYK"),
        pytest.param(lambda: encoded(picture().convert("L"), "JPEG"), 1, id="grey"),
        pytest.param(lambda: encoded(picture().convert("P"), "PNG"), 1, id="palette"),
        pytest.param(
            lambda: encoded(picture().convert("L").convert("I;16"), "PNG"), 1, id="16-bit PNG"
        ),
        pytest.param(lambda: encoded(picture(8, 6), "JPEG"), 1, id="tiny"),
        pytest.param(lambda: encoded(picture(8000, 6000), "JPEG"), 0.1, id="48 megapixels"),
    ],
)
def test_photos_of_every_kind_are_answered(
    live_stack: LiveStack, photo: Callable[[], bytes], tolerance: float
) -> None:
    response = post(live_stack, photo())
    assert response.status_code == 200, response.text
    answer, plain = response.json(), post(live_stack, JPEG).json()
    assert {len(answer["predictions"]), len(plain["predictions"])} == {5}
    # How sure the model is of the class that it gives the plain photo.
    again = {entry["class_id"]: entry["confidence"] for entry in answer["predictions"]}
    difference = plain["confidence"] - again.get(plain["class_id"], 0)
    assert abs(difference) <= tolerance


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"I am a text, no photo.\n" * 100, 415, "unsupported_image_type"),
        (encoded(picture(), "GIF"), 415, "unsupported_image_type"),
        (JPEG[: len(JPEG) // 2], 422, "image_unreadable"),
        (JPEG[:10], 422, "image_unreadable"),
        (JPEG + bytes(30 * MEGABYTE), 413, "image_too_large"),
        (encoded(Image.new("1", (12_000, 12_000)), "PNG"), 413, "image_too_large"),
        (b"", 400, "image_missing"),
    ],
    ids=["text", "GIF", "truncated", "only a beginning", "30 MB", "a bomb of 144 Mpx", "empty"],
)
def test_bad_photos_are_refused_as_the_contract_says(
    live_stack: LiveStack, body: bytes, status: int, code: str
) -> None:
    for response in (post(live_stack, body), post_raw(live_stack, body)):
        told = response.json()
        assert (response.status_code, told["error"]["code"]) == (status, code)
        assert told["error"]["message"]
        assert told["request_id"] == response.headers["X-Request-Id"]


def test_a_photo_of_almost_20_megabytes_is_answered(live_stack: LiveStack) -> None:
    # After a JPEG's end anything may follow.
    photo = JPEG + bytes(20 * MEGABYTE - len(JPEG))
    assert post(live_stack, photo).status_code == 200
    assert post_raw(live_stack, photo).status_code == 200


def test_a_body_of_over_100_megabytes_is_refused(live_stack: LiveStack) -> None:
    response = post(live_stack, *[bytes(19 * MEGABYTE)] * 6)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_one_bad_photo_among_several_hurts_only_itself(live_stack: LiveStack) -> None:
    alone = post(live_stack, JPEG).json()
    body = post(live_stack, JPEG, JPEG[:1000], b"text", JPEG, b"", JPEG).json()
    assert [result["status"] for result in body["results"]] == [200, 422, 415, 200, 400, 200]
    for index in (0, 3, 5):
        answer = body["results"][index]["answer"]
        assert answer["class_id"] == alone["class_id"]
        assert answer["confidence"] == pytest.approx(alone["confidence"], abs=0.01)


def test_many_callers_at_once_each_get_their_own_answer(live_stack: LiveStack) -> None:
    def ask(number: int) -> tuple[int, str]:
        photo = JPEG if number % 4 else JPEG[:1000]
        response = post(live_stack, photo, headers={"X-Request-Id": f"caller-{number}"})
        return response.status_code, response.json()["request_id"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    assert answers == [(200 if n % 4 else 422, f"caller-{n}") for n in range(64)]


@pytest.mark.parametrize("top_k", [1, 20])
def test_top_k(live_stack: LiveStack, top_k: int) -> None:
    answer = post(live_stack, JPEG, params={"top_k": top_k}).json()
    assert len(answer["predictions"]) == top_k
    assert answer["predictions"][0]["class_id"] == answer["class_id"]
    confidences = [entry["confidence"] for entry in answer["predictions"]]
    assert confidences == sorted(confidences, reverse=True)


@pytest.mark.parametrize("top_k", ["0", "21", "many"])
def test_an_impossible_top_k(live_stack: LiveStack, top_k: str) -> None:
    response = post(live_stack, JPEG, data={"top_k": top_k})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_option")


def test_unknown_path_and_wrong_method(live_stack: LiveStack) -> None:
    # TorchServe's own paths among them: nothing of it shows through.
    for path in ("/nowhere", "/models", "/predictions/car_identifier", "/ping", "/token"):
        response = requests.get(live_stack.url + path, timeout=30)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = requests.delete(f"{live_stack.url}/v1/identify", timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


def test_labels_and_answers_agree(live_stack: LiveStack) -> None:
    table = requests.get(f"{live_stack.url}/v1/labels", timeout=30).json()
    answer = post(live_stack, JPEG).json()
    assert table["model_version"] == answer["model_version"]
    assert [label["class_id"] for label in table["labels"]] == list(range(len(table["labels"])))
    for entry in answer["predictions"]:
        label = table["labels"][entry["class_id"]]
        assert label == {key: entry[key] for key in label}


def test_a_key_that_was_replaced_is_noticed(live_stack: LiveStack) -> None:
    api_key = json.loads(live_stack.key_file.read_text())["API"]["key"]
    renewed = requests.get(
        f"{live_stack.management_url}/token",
        params={"type": "inference"},
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=30,
    )
    assert renewed.status_code == 200
    assert post(live_stack, JPEG).status_code == 200


def test_the_client_and_its_command(live_stack: LiveStack, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(JPEG)
    with CarIdentifierClient(live_stack.url) as client:
        assert client.ready()
        answer = client.identify(photo, top_k=3)
        assert isinstance(answer, Answer)
        assert answer.label in {car.label for car in client.labels().labels}
    command = "from client.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", command, "identify", photo, "--json", "--url", live_stack.url],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"]["label"] == answer.label


def test_real_photos_are_answered_as_they_are(live_stack: LiveStack, cars_data: Path) -> None:
    with (cars_data / "photos" / "labels.csv").open(newline="") as file:
        expected = {row["file"]: int(row["class_id"]) for row in csv.DictReader(file)}
    with CarIdentifierClient(live_stack.url) as client:
        answers = {name: client.identify(cars_data / "photos" / name) for name in expected}
    assert all(1990 < answer.year <= 2012 for answer in answers.values())
    right = sum(answers[name].class_id == class_id for name, class_id in expected.items())
    # They are training photos, so this says that serving sees what training saw, and no more.
    assert right > len(expected) / 2, f"only {right} of {len(expected)} were recognised"
