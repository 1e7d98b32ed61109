"""The description of TorchServe's calls: valid, and each of its answers seen from the live server.

A version's whole life is played once, on a TorchServe of its own; each documented answer of each
call must have come up in it, and fit.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from factories import RED, photo
from jsonschema import Draft202012Validator
from live_stack import ROOT, LiveStack, running_stack, wait_until_ready

DESCRIPTION = yaml.safe_load((ROOT / "openapi" / "torchserve.yaml").read_text())
BUNDLED = ROOT / "model_store" / "car_identifier.mar"
VERSION = json.loads(zipfile.ZipFile(BUNDLED).read("MAR-INF/MANIFEST.json"))["model"][
    "modelVersion"
]
MEGABYTE = 2**20

OPERATIONS = {
    operation["operationId"]: (method, path, {**item, **operation})
    for path, item in DESCRIPTION["paths"].items()
    for method, operation in item.items()
    if method in ("get", "put", "post", "delete")
}
# A batch has to take 20 s to decode, which no test can bring about on a machine of any speed; that
# the worker then answers so is shown without TorchServe (test_reader.py).
NOT_PROVOKED = {
    (operation, "504")
    for operation in ("predict", "predict_with_version", "explain", "explain_with_version")
}
# When a worker that does not start is waited for, and when it is only started, is up to TorchServe.
NOT_ALWAYS = {("scale", "206"), ("scale_version", "206")}
DOCUMENTED = {
    (operation_id, status)
    for operation_id, (_, _, operation) in OPERATIONS.items()
    for status in operation["responses"]
}

# A handler that does what ours must not, at loading or at a photo's wish.
TROUBLED = """
import os

class Troubled:
    def initialize(self, context):
        self.trouble(context.model_name.partition("_")[2])

    def handle(self, data, context):
        self.trouble(bytes(data[0].get("body") or b"").decode())
        return ["{}"]

    def trouble(self, kind):
        if kind == "memory":
            raise MemoryError
        if kind == "die":
            os._exit(1)
"""


@dataclass
class Rehearsal:
    """Calls TorchServe as the description says, and keeps what it answered.

    Attributes:
        answers: of each operation and status.
    """

    stack: LiveStack
    answers: dict[tuple[str, str], list[requests.Response]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def call(
        self,
        operation_id: str,
        status: int | str,
        model: str = "car_identifier",
        version: str = VERSION,
        *,
        key: str | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        **query: object,
    ) -> requests.Response:
        """Make a call and expect a status.

        Args:
            operation_id: the description's.
            status: or several, as "206 or 5XX".
            model: of the path.
            version: of the path.
            key: instead of the right one.
            body: a photo, where one belongs.
            headers: options of a photo.
            query: options of everything else.
        """
        method, path, operation = OPERATIONS[operation_id]
        [security] = operation["security"]
        if key is None:
            key = json.loads(self.stack.key_file.read_text())[next(iter(security))]["key"]
        port = {"http://127.0.0.1:8081": self.stack.management_url}
        server = operation.get("servers", DESCRIPTION["servers"])[0]["url"]
        response = requests.request(
            method,
            port.get(server, self.stack.inference_url)
            + path.format(model_name=model, model_version=version),
            params={name: str(value).lower() for name, value in query.items()},
            data=body,
            headers={
                "Authorization": f"Bearer {key}",
                "Content-Type": "application/octet-stream",
                **(headers or {}),
            },
            timeout=120,
        )
        got = str(response.status_code)
        if got not in operation["responses"]:
            got = f"{got[0]}XX"
        assert got in str(status).split(" or "), f"{operation_id}: {response.text}"
        self.answers[operation_id, got].append(response)
        return response


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    store = tmp_path_factory.mktemp("store")
    shutil.copy(BUNDLED, store)
    write_new_version(store / "next.mar", "99.0")
    write_new_version(store / "broken.mar", "99.1", leave_out="model.bin")
    write_troubled(store / "troubled.mar")
    (store / "text.mar").write_text("no archive")
    options = ("--archive", str(store / BUNDLED.name))
    with running_stack(tmp_path_factory.mktemp("run"), *options) as stack:
        wait_until_ready(stack)
        played = Rehearsal(stack)
        play_refused_keys(played)
        play_photos(played)
        play_a_version(played)
        play_without_workers(played)
        play_trouble(played)
        yield played


def write_new_version(target: Path, version: str, *, leave_out: str = "") -> None:
    """The bundled archive under another version, less one of its files."""
    with zipfile.ZipFile(BUNDLED) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            if name == "MAR-INF/MANIFEST.json":
                data = data.replace(f'"{VERSION}"'.encode(), f'"{version}"'.encode())
            if name != leave_out:
                archive.writestr(name, data)


def write_troubled(target: Path) -> None:
    manifest = {
        "runtime": "python",
        "model": {"modelName": "troubled", "modelVersion": "1.0", "handler": "troubled.py"},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("troubled.py", TROUBLED)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))


PHOTO = photo(RED, (640, 480))
PREDICTING = ("predict", "predict_with_version", "explain", "explain_with_version")


def play_refused_keys(server: Rehearsal) -> None:
    for operation_id, (_, _, operation) in OPERATIONS.items():
        refused = server.call(operation_id, 400, key="wrong", body=b"")
        assert refused.json()["type"] == "InvalidKeyException"
        # Nor does another API's key open it.
        other = "inference" if "inference" not in operation["security"][0] else "management"
        key = json.loads(server.stack.key_file.read_text())[other]["key"]
        server.call(operation_id, 400, key=key, body=b"")


def play_photos(server: Rehearsal) -> None:
    server.call("ping", 200)
    wanted = {"top_k": "2", "box": "0,0,100,100", "request_id": "my-photo-1"}
    for name in PREDICTING:
        answer = server.call(name, 200, body=PHOTO, headers=wanted).json()
        assert (len(answer["predictions"]), answer["request_id"]) == (2, "my-photo-1")
        assert answer["region"]["source"] == "box"
        assert ("heatmap" in answer) == name.startswith("explain")
        assert server.call(name, 400, body=b"").json()["error"]["code"] == "image_missing"
        server.call(name, 404, "truck_identifier", body=PHOTO)
        server.call(name, 413, body=PHOTO + bytes(20 * MEGABYTE))
        server.call(name, 415, body=b"text")
        server.call(name, 422, body=PHOTO[:300])
        server.call(name, 422, body=PHOTO, headers={"top_k": "21"})
    for header, is_explained in (("X-Explain", True), ("explain", False)):
        answer = server.call("predict", 200, body=PHOTO, headers={header: "true"}).json()
        assert ("heatmap" in answer) == is_explained
    for name in ("predict_with_version", "explain_with_version"):
        missing = server.call(name, 404, version="7.7", body=PHOTO)
        assert missing.json()["type"] == "ModelVersionNotFoundException"


def play_a_version(server: Rehearsal) -> None:
    new = "99.0"
    register = {"url": "next.mar", "model_name": "car_identifier", "synchronous": True}
    for bad, status in (
        ({"url": "missing.mar"}, 404),
        ({"url": "http://example.org/car.mar"}, 404),
        ({"url": "../next.mar"}, 404),
        ({"url": "text.mar"}, 400),
        ({"url": ""}, 404),
        ({}, 400),
        ({"url": BUNDLED.name}, 409),
        ({"url": "broken.mar"}, 500),
    ):
        server.call("register", status, **bad)
    server.call("describe_version", 404, version="99.1")  # it is not kept

    told = server.call("register", 200, **register, initial_workers=0).json()
    assert "registered with 1 initial workers" in told["status"]
    [described] = server.call("describe_version", 200, version=new, customized=True).json()
    assert described["customizedMetadata"]["labels"][0]["class_id"] == 0
    versions = server.call("describe_all", 200).json()
    assert {version["modelVersion"] for version in versions} == {VERSION, new}
    assert default_version(server) == VERSION
    assert server.call("list_models", 200).json()["models"][0]["modelName"] == "car_identifier"
    assert server.call("list_models", 200, limit=1).json()["nextPageToken"] == "1"
    assert server.call("list_models", 200, next_page_token=1).json() == {"models": []}

    server.call("set_default", 200, version=new)
    assert default_version(server) == new
    for name in ("unregister", "unregister_version"):
        server.call(name, 403, version=new)
    server.call("set_default", 200, version=VERSION)

    for name in ("scale", "scale_version"):
        server.call(name, 200, version=new, min_worker=1, synchronous=True)
        server.call(name, 202, version=new, min_worker=1)
        refused = server.call(name, 400, version=new, min_worker=3, max_worker=2)
        assert refused.json()["type"] == "BadRequestException"
    for name in ("describe", "describe_all", "scale", "unregister", "set_default"):
        server.call(name, 404, "truck_identifier")
    for name in ("describe_version", "scale_version", "unregister_version", "set_default"):
        server.call(name, 404, version="7.7")
    server.call("unregister_version", 200, version=new)

    for kind in ("inference", "management"):
        before = json.loads(server.stack.key_file.read_text())[kind]["key"]
        assert not server.call("renew_key", 200, type=kind).text.strip()
        assert json.loads(server.stack.key_file.read_text())[kind]["key"] != before


def default_version(server: Rehearsal) -> str:
    [described] = server.call("describe", 200).json()
    return described["modelVersion"]


def play_without_workers(server: Rehearsal) -> None:
    server.call("scale", 200, min_worker=0, synchronous=True)
    for name in PREDICTING:
        server.call(name, 503, body=PHOTO)
    for name in ("describe", "describe_version"):
        server.call(name, 503, customized=True)
    assert server.call("ping", 200).json()["status"] == "Healthy"
    server.call("scale", 200, min_worker=1, synchronous=True)
    for name in PREDICTING:
        server.call(name, 200, body=PHOTO)


def play_trouble(server: Rehearsal) -> None:
    server.call("register", 200, url="troubled.mar", initial_workers=1)
    for name in PREDICTING:
        server.call(name, 507, "troubled", "1.0", body=b"memory")
        server.call(name, 500, "troubled", "1.0", body=b"die")
    server.call("unregister", 200, "troubled")  # the only version: no 403

    server.call("register", 507, url="troubled.mar", model_name="troubled_memory")
    server.call("unregister", "200 or 404", "troubled_memory")  # busy, it has done so itself

    for name in ("scale", "scale_version"):
        options = {"model_name": "troubled_memory", "initial_workers": 0}
        server.call("register", 200, url="troubled.mar", **options)
        for status in ("5XX", "200 or 206 or 5XX"):  # the second finds the first's remains
            server.call(name, status, "troubled_memory", "1.0", min_worker=1, synchronous=True)
        server.call("unregister_version", 200, "troubled_memory", "1.0")


@pytest.mark.live
def test_each_documented_answer_comes_up_and_fits(rehearsal: Rehearsal) -> None:
    seen = set(rehearsal.answers)
    assert seen <= DOCUMENTED
    assert DOCUMENTED - seen - NOT_ALWAYS == NOT_PROVOKED
    for operation_id, status in seen:
        described = resolved(OPERATIONS[operation_id][2]["responses"][status])
        for answer in rehearsal.answers[operation_id, status]:
            fits(answer, described)


def fits(answer: requests.Response, described: dict[str, Any]) -> None:
    """The answer is as described: its headers, its type, and its body to the last field."""
    assert set(described.get("headers", ())) <= answer.headers.keys()
    if "content" not in described:
        assert not answer.text.strip()
        return
    [(media_type, content)] = described["content"].items()
    assert answer.headers["Content-Type"] == media_type
    check(answer.json(), content["schema"])


@pytest.mark.live
def test_a_body_over_torchserves_own_limit_is_refused_without_a_word(rehearsal: Rehearsal) -> None:
    key = json.loads(rehearsal.stack.key_file.read_text())["inference"]["key"]
    response = requests.post(
        f"{rehearsal.stack.inference_url}/predictions/car_identifier",
        data=bytes(22 * MEGABYTE),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"},
        timeout=60,
    )
    assert (response.status_code, response.content) == (413, b"")
    assert "x-request-id" not in response.headers


def test_every_example_fits_its_schema() -> None:
    examples = list(found_examples(DESCRIPTION))
    assert len(examples) > 15
    for example, schema in examples:
        check(example, schema)


def found_examples(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every example in the description, with the schema beside it."""
    if isinstance(node, dict):
        if "schema" in node and "example" in node:
            yield node["example"], node["schema"]
        if "schema" in node and isinstance(node.get("examples"), dict):
            for example in node["examples"].values():
                yield resolved(example)["value"], node["schema"]
        if isinstance(node.get("examples"), list):
            for example in node["examples"]:
                yield example, node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from found_examples(child)


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """The node that a reference leads to."""
    if "$ref" not in node:
        return node
    target: Any = DESCRIPTION
    for step in node["$ref"].removeprefix("#/").split("/"):
        target = target[step]
    return resolved(target)


def check(value: Any, schema: dict[str, Any]) -> None:
    """The value fits the schema."""
    Draft202012Validator({**schema, "components": DESCRIPTION["components"]}).validate(value)
