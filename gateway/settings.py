"""What an operator may set, each by an environment variable `CARID_…`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["MEGABYTE", "Settings"]

MEGABYTE = 2**20


class Settings(BaseSettings):
    """The gateway's settings; `CARID_PORT=9000` sets `port`.

    Sizes are in bytes, times in seconds.
    """

    model_config = SettingsConfigDict(env_prefix="CARID_", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65535)

    inference_url: str = "http://127.0.0.1:8080"
    management_url: str = "http://127.0.0.1:8081"
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

    max_photo_bytes: int = Field(default=20 * MEGABYTE, ge=1)
    max_body_bytes: int = Field(default=100 * MEGABYTE, ge=1)
    max_photos: int = Field(default=32, ge=1)
    upload_memory_bytes: int = Field(
        default=1000 * MEGABYTE,
        ge=1,
        description="Uploads held in memory at once, over all requests; more are told to wait.",
    )

    ready_ttl_s: float = Field(
        default=5, ge=0, description="How long one answered photo proves readiness."
    )
    labels_ttl_s: float = Field(
        default=10, ge=0, description="How long a label table is not looked up."
    )
