"""What an operator may set, each by an environment variable `CARID_…`."""

from __future__ import annotations

import ipaddress
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["MEGABYTE", "Settings", "read_settings"]

MEGABYTE = 2**20

_ORIGIN = re.compile(r"\*|https?://[^/?#\s]+")


class Settings(BaseSettings):
    """The gateway's settings; `CARID_PORT=9000` sets `port`.

    Sizes are in bytes, times in seconds, lists are separated by commas.

    Behind a proxy, callers without a key are told apart by the address that the proxy names in
    `X-Forwarded-For`. Anyone can send that header, so it is believed only from `trusted_proxies`.
    With a proxy on the same machine `host` may be loopback, where `access` needs no keys by itself:
    set it to `key` or `anonymous` if the proxy is public.
    """

    # An empty variable counts as not set: files of them are full of lines with nothing after `=`.
    model_config = SettingsConfigDict(
        env_prefix="CARID_", env_ignore_empty=True, allow_inf_nan=False, frozen=True
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65535)

    drain_s: float = Field(
        default=0,
        ge=0,
        description="How long all is still answered after the signal to stop, while /readyz is 503 "
        "and balancers take notice; 0 to stop at once.",
    )

    # The default is longer than any Retry-After: who comes back in time finds it still open.
    keep_alive_s: int = Field(
        default=65,
        ge=1,
        description="How long a connection stays open between requests; behind a balancer longer "
        "than the balancer keeps it, or it may send a request into a connection just closed.",
    )

    access: Literal["auto", "key", "anonymous"] = Field(
        default="auto",
        description="auto: keys are needed unless `host` is loopback; key: always; anonymous: who "
        "has none gets the low limit.",
    )
    api_keys_file: Path = Field(
        default=Path(".run/api_keys.json"), description="Written by `carid keys`."
    )
    rate_per_minute: int = Field(
        default=600, ge=1, description="Photos a minute for a key that has no limit of its own."
    )
    anonymous_per_minute: int = Field(
        default=20, ge=1, description="Photos a minute for one address without a key."
    )
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="Addresses and networks whose X-Forwarded-For is believed; * for all.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Web sites whose scripts may call this API, as https://example.org; * for all.",
    )

    inference_url: str = "http://127.0.0.1:8080"
    management_url: str = "http://127.0.0.1:8081"
    metrics_url: str = Field(
        default="http://127.0.0.1:8082",
        description="What TorchServe shows here becomes a part of the gateway's own /metrics.",
    )
    key_file: Path = Field(
        default=Path(".run/key_file.json"),
        description="Where TorchServe writes its keys: in the directory it was started in.",
    )
    model_name: str = "car_identifier"

    # Shorter than the worker's responseTimeout, so that a slow answer is a clean 504 here and not
    # a worker killed by TorchServe.
    answer_timeout_s: float = Field(
        default=25, gt=0, description="How long one photo's answer may take."
    )
    queue_timeout_s: float = Field(
        default=10, gt=0, description="How long a photo may wait until its turn comes."
    )
    connect_timeout_s: float = Field(default=5, gt=0)
    upstream_connections: int = Field(
        default=64, ge=1, description="Photos under way to TorchServe at once, over all requests."
    )
    photos_in_flight: int = Field(
        default=8,
        ge=1,
        description="Photos of one request under way at once; the worker's batch size.",
    )

    upload_timeout_s: float = Field(
        default=60, gt=0, description="How long a request's whole body may take to arrive."
    )
    max_photo_bytes: int = Field(default=20 * MEGABYTE, ge=1)
    max_body_bytes: int = Field(default=100 * MEGABYTE, ge=1)
    max_photos: int = Field(default=32, ge=1)
    upload_memory_bytes: int = Field(
        default=1000 * MEGABYTE,
        ge=1,
        description="Uploads held in memory at once, over all requests; more are told to wait.",
    )

    canary_file: Path = Field(
        default=Path(".run/canary.json"),
        description="Says which version gets which share of the traffic; none if it isn't there.",
    )
    canary_timeout_s: float = Field(
        default=5, gt=0, description="How long a canary may take until the default version answers."
    )

    ready_ttl_s: float = Field(
        default=5, ge=0, description="How long one answered photo proves readiness."
    )
    labels_ttl_s: float = Field(
        default=10, ge=0, description="How long a label table is not looked up."
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_proxies(cls, proxies: str) -> str:
        """As uvicorn reads it, but for what it would take for the name of a socket, silently."""
        named = proxies.replace(",", " ").split()
        if named == ["*"]:
            return "*"
        for proxy in named or [proxies]:
            try:
                ipaddress.ip_network(proxy) if "/" in proxy else ipaddress.ip_address(proxy)
            except ValueError as error:
                raise ValueError(
                    f"{error}: write addresses and networks, as 10.0.0.1,10.1.0.0/16, or * alone"
                ) from error
        return ",".join(named)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: write scheme, host and port only, "
                    "as https://example.org"
                )
        return origins


def read_settings() -> Settings:
    """The settings of the environment; ends the process, with the reasons, where they are wrong."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "CARID_" + "_".join(map(str, problem["loc"])).upper()
            print(f"{name}: {problem['msg']}, not {problem['input']!r}", file=sys.stderr)
        sys.exit(2)
