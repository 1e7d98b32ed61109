"""Photos as base64 in a JSON body: the same answers, and the same limits."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from gateway_fixtures import (
    BROKEN_PHOTO,
    CAR,
    PHOTO,
    Gateway,
    StandInTorchServe,
    assert_error,
    identify,
    identify_json,
    wait_for,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, TooManyPhotosError
from gateway.json_body import read_json
from gateway.settings import MEGABYTE, Settings
from gateway.uploads import Upload, UploadMemory

LARGE_PHOTO = PHOTO + bytes(range(256)) * 1000


def text(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def read(body: bytes, cuts: list[int] | None = None, **settings: Any) -> Upload:
    """What the gateway makes of a body that arrives in pieces."""
    edges = [0, *sorted(cuts or []), len(body)]

    async def chunks() -> AsyncIterator[bytes]:
        for start, end in pairwise(edges):
            yield body[start:end]

    limits = Settings(**settings)
    with UploadMemory(limits.upload_memory_bytes).lease() as lease:
        return asyncio.run(read_json(chunks(), limits, lease))


class TestPhotos:
    @pytest.mark.parametrize("photo", [PHOTO, LARGE_PHOTO], ids=["short", "long"])
    def test_one_is_answered(
        self, gateway: Gateway, torchserve: StandInTorchServe, photo: bytes
    ) -> None:
        response = identify_json(gateway, {"image": text(photo)})
        assert response.status_code == 200
        assert response.json()["label"] == CAR["label"]
        assert torchserve.photos[0][1] == photo

    def test_a_list_of_one_is_one(self, gateway: Gateway) -> None:
        assert identify_json(gateway, {"images": [text(PHOTO)]}).json()["label"] == CAR["label"]

    def test_several_are_answered_in_order(self, gateway: Gateway) -> None:
        images = [text(PHOTO), text(BROKEN_PHOTO), "", "no base64!", text(LARGE_PHOTO)]
        results = identify_json(gateway, {"images": images}).json()["results"]
        assert [result["status"] for result in results] == [200, 422, 400, 400, 200]
        assert [result["filename"] for result in results] == [None] * 5
        assert results[2]["error"]["code"] == "image_missing"
        assert results[3]["error"]["code"] == "body_unreadable"
        assert "images[3]" in results[3]["error"]["message"]

    def test_options_stand_beside_them(
        self, gateway: Gateway, torchserve: StandInTorchServe
    ) -> None:
        options = {"top_k": 1, "explain": True, "box": [1, 2, 30, 40], "version": "1.0"}
        answer = identify_json(gateway, {"image": text(PHOTO), **options}).json()
        assert len(answer["predictions"]) == 1
        assert "heatmap" in answer
        assert torchserve.asked == [
            {"version": "1.0", "top_k": "1", "explain": True, "box": "1,2,30,40"}
        ]

    def test_options_may_stand_in_the_address_too(self, gateway: Gateway) -> None:
        body = {"image": text(PHOTO), "explain": True}
        answer = identify_json(gateway, body, params={"top_k": 1}).json()
        assert (len(answer["predictions"]), "heatmap" in answer) == (1, True)


class TestWhatIsTolerated:
    @pytest.mark.parametrize("photo", [PHOTO, LARGE_PHOTO], ids=["short", "long"])
    @pytest.mark.parametrize(
        "write",
        [
            lambda it: json.dumps({"image": base64.encodebytes(it).decode()}).encode(),
            lambda it: b'{"image": "' + base64.encodebytes(it) + b'"}',  # the shell's $(base64 …)
            lambda it: json.dumps({"image": "data:image/jpeg;base64," + text(it)}).encode(),
            lambda it: json.dumps({"image": text(it)}).replace("/", "\\/").encode(),  # PHP
            lambda it: json.dumps({"image": text(it)}).replace("+", "\\u002B").encode(),  # .NET
            lambda it: json.dumps({"image": text(it)}, indent=4).encode(),
        ],
        ids=["line breaks", "raw line breaks", "data URL", "PHP", ".NET", "indented"],
    )
    def test_ways_to_write_base64(self, write: Callable[[bytes], bytes], photo: bytes) -> None:
        photo += b"\xff\xef\xbe\xfb\xf0"  # both of + and / are in it
        assert [it.data for it in read(write(photo)).photos] == [photo]

    @given(st.data())
    def test_any_photo_arrives_whole_however_its_body_is_cut(self, data: st.DataObject) -> None:
        photos = data.draw(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=4))
        body = json.dumps({"images": [text(photo) for photo in photos], "top_k": 7})
        for character in data.draw(st.sets(st.sampled_from("+/=Aa9"))):
            body = body.replace(character, f"\\u{ord(character):04x}")
        body = body.replace("\\u0061", "a") if '"im\\u0061ges"' in body else body
        encoded = body.encode()
        cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=30))
        upload = read(encoded, cuts)
        assert [photo.data for photo in upload.photos] == photos
        assert upload.options.top_k == 7

    def test_an_escape_may_be_cut_anywhere(self) -> None:
        escaped = text(LARGE_PHOTO[:1500]).replace("A", "\\u0041").replace("/", "\\/")
        body = f'{{"image": "{escaped}"}}'.encode()
        for start in range(6):
            [photo] = read(body, list(range(start, len(body), 7))).photos
            assert photo.data == LARGE_PHOTO[:1500]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "code", "hint"),
        [
            (b"", 400, "image_missing", '{"image": "BASE64"}'),
            (b"{}", 400, "image_missing", '{"image": "BASE64"}'),
            (b'{"images": []}', 400, "image_missing", "no photo"),
            (b'{"image": ""}', 400, "image_missing", "image is empty"),
            (b"null", 400, "body_unreadable", "no object"),
            (b'["photo"]', 400, "body_unreadable", "no object"),
            (b'{"image": ', 400, "body_unreadable", "no JSON"),
            (b'{"image": "AAAA", "\\ud800": 1}', 400, "body_unreadable", "no JSON"),
            (b'{"\\ud800": 1, "\\ud800": 2}', 400, "body_unreadable", "no JSON"),
            (b'{"image": "AAAA', 400, "body_unreadable", "breaks off"),
            (b'{"image": "' + b"A" * 5000, 400, "body_unreadable", "breaks off"),
            (b"[" * 60_000, 400, "body_unreadable", "no JSON"),
            (b"[0]," * 60_000, 400, "body_unreadable", "too much beside photos"),
            (b'{"image": 7}', 400, "body_unreadable", "image is no text"),
            (b'{"image": null}', 400, "body_unreadable", "image is no text"),
            (b'{"images": "AAAA"}', 400, "body_unreadable", "images is no list"),
            (b'{"images": ["AAAA", 7]}', 400, "body_unreadable", "images[1] is no text"),
            (b'{"image": "AAAA", "images": ["AAAA"]}', 400, "body_unreadable", "both"),
            (b'{"image": "\xff"}', 400, "body_unreadable", "no JSON"),
            (b'{"image": "A", "top_k": 3}', 400, "body_unreadable", "image is not base64"),
            (b'{"image": "AA=A"}', 400, "body_unreadable", "image is not base64"),
            (b'{"image": "AAAA", "image": "AAAA"}', 422, "invalid_option", "image was given twice"),
            (b'{"image": "AAAA", "top_k": 1, "top_k": 1}', 422, "invalid_option", "top_k was"),
            (b'{"image": "AAAA", "top_k": "3"}', 422, "invalid_option", "valid integer"),
            (b'{"image": "AAAA", "top_k": true}', 422, "invalid_option", "valid integer"),
            (b'{"image": "AAAA", "top_k": 21}', 422, "invalid_option", "less than or equal to 20"),
            (b'{"image": "AAAA", "explain": 1}', 422, "invalid_option", "explain"),
            (b'{"image": "AAAA", "version": 1.1}', 422, "invalid_option", "version"),
            (b'{"image": "AAAA", "version": null}', 422, "invalid_option", "version"),
            (b'{"image": "AAAA", "box": [1, 2, 3]}', 422, "invalid_option", "left,top"),
            (b'{"image": "AAAA", "box": [1, 2, 3, 4.5]}', 422, "invalid_option", "left,top"),
            (b'{"image": "AAAA", "box": null}', 422, "invalid_option", "left,top"),
            (
                b'{"image": "AAAA", "topk": 1}',
                422,
                "invalid_option",
                "no option 'topk', only top_k",
            ),
            (
                b'{"image": "AAAA", "version": "' + b"A" * 5000 + b'"}',
                422,
                "invalid_option",
                "version is too long",
            ),
            (b'{"image": "AAAA", "' + b"A" * 5000 + b'": 1}', 422, "invalid_option", "so long"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_cannot_be_read(
        self, gateway: Gateway, body: bytes, status: int, code: str, hint: str
    ) -> None:
        assert hint in assert_error(identify_json(gateway, body), status, code)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda it: it[:-1],
            lambda it: "-" + it[1:],  # of the URL-safe alphabet
            lambda it: it[:800] + "=" + it[801:],
            lambda it: it[:800] + "é" + it[801:],
            lambda it: it[:2000] + "====" + it[2000:],
            lambda it: it + "=",
            lambda it: it + "AAAA",
            lambda it: "=" + it,
        ],
        ids=["cut", "URL-safe", "=", "é", "====", "one = more", "goes on", "= first"],
    )
    def test_base64_that_is_none(self, spoil: Callable[[str], str]) -> None:
        good = text(LARGE_PHOTO[:-1])
        assert good.endswith("=")
        for ascii_only in (True, False):
            body = json.dumps({"image": spoil(good)}, ensure_ascii=ascii_only).encode()
            [photo] = read(body).photos
            assert photo.data == b""
            assert photo.refusal
            assert photo.refusal.message.startswith("image is not base64")

    def test_the_same_option_in_address_and_body(self, gateway: Gateway) -> None:
        response = identify_json(gateway, {"image": text(PHOTO), "top_k": 3}, params={"top_k": 3})
        assert "twice" in assert_error(response, 422, "invalid_option")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["image", "images", "top_k", "box", "explain", "version", "é"]),
                    inner,
                )
            ),
        )
    )
    def test_no_json_makes_it_stumble(self, value: object) -> None:
        with suppress(GatewayError):
            assert read(json.dumps(value).encode()).photos


class TestLimits:
    def test_a_photo_over_the_limit(self, start_gateway: Callable[..., Gateway]) -> None:
        small = start_gateway(max_photo_bytes=3000, max_photos=3)
        assert identify_json(small, {"image": text(bytes(3000))}).status_code == 200
        alone = identify_json(small, {"image": text(bytes(3001))})
        assert_error(alone, 413, "image_too_large")
        several = identify_json(small, {"images": [text(PHOTO), text(bytes(9000)), text(PHOTO)]})
        assert [result["status"] for result in several.json()["results"]] == [200, 413, 200]

    @pytest.mark.parametrize("photo", [PHOTO, bytes(2000)], ids=["short", "long"])
    def test_too_many_photos(self, start_gateway: Callable[..., Gateway], photo: bytes) -> None:
        small = start_gateway(max_photos=3)
        response = identify_json(small, {"images": [text(photo)] * 4})
        assert_error(response, 413, "too_many_photos")

    def test_too_many_photos_are_not_read_to_the_end(self) -> None:
        photos = b",".join([b'"' + b"A" * 2000 + b'"'] * 4)
        with pytest.raises(TooManyPhotosError):
            read(b'{"images": [' + photos + b"broken off", max_photos=3)

    def test_a_body_over_the_limit(self, start_gateway: Callable[..., Gateway]) -> None:
        small = start_gateway(max_body_bytes=5000)
        response = identify_json(small, {"image": text(bytes(5000))})
        assert_error(response, 413, "body_too_large")

    def test_uploads_together_fit_into_memory(
        self, start_gateway: Callable[..., Gateway], torchserve: StandInTorchServe
    ) -> None:
        gateway = start_gateway(upload_memory_bytes=25_000)
        body = {"image": text(bytes(10_000))}
        with ThreadPoolExecutor(4) as pool, torchserve.holding():
            calls = [pool.submit(identify_json, gateway, body) for _ in range(4)]
            wait_for(lambda: sum(call.done() for call in calls) == 2)
        assert sorted(call.result().status_code for call in calls) == [200, 200, 503, 503]
        assert identify_json(gateway, {"image": text(bytes(24_000))}).status_code == 200

    def test_a_large_body_is_decoded_as_it_arrives(self) -> None:
        """Nothing is left for its end, when decoding it all would keep the others waiting."""
        body = json.dumps({"images": [text(bytes(4 * MEGABYTE))] * 4}).encode()
        settings = Settings()
        piece = 2**16
        undecoded = []

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), piece):
                undecoded.append(start * 3 / 4 - lease.taken)
                yield body[start : start + piece]
            undecoded.append(len(body) * 3 / 4 - lease.taken)

        with UploadMemory(settings.upload_memory_bytes).lease() as lease:
            upload = asyncio.run(read_json(chunks(), settings, lease))
        assert [len(photo.data) for photo in upload.photos] == [4 * MEGABYTE] * 4
        assert len(undecoded) > 300
        assert max(undecoded) < 1000

    @pytest.mark.parametrize(
        "body",
        [
            b'{"image": "' + b"\\n" * (8 * MEGABYTE) + b'"}',
            b'{"image": "' + b"\\\\" * (8 * MEGABYTE) + b'"}',
            b'{"image": "' + "é".encode() * (8 * MEGABYTE) + b'"}',
            b"\xff" * (16 * MEGABYTE),
            b'"' * (16 * MEGABYTE),
            b"[" * (16 * MEGABYTE),
        ],
        ids=["line breaks", "backslashes", "not ASCII", "no JSON", "quotes", "brackets"],
    )
    def test_a_hostile_body_is_soon_refused(self, gateway: Gateway, body: bytes) -> None:
        start = time.perf_counter()
        assert identify_json(gateway, body).status_code == 400
        assert time.perf_counter() - start < 10


def test_json_and_form_get_the_same_answer(gateway: Gateway) -> None:
    as_json = identify_json(gateway, {"image": text(PHOTO)}, headers=_with_id("same")).json()
    as_form = identify(gateway, PHOTO, headers={"X-Request-Id": "same"}).json()
    assert as_json == as_form


def _with_id(request_id: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "X-Request-Id": request_id}
