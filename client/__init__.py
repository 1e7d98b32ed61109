"""The Python client and the `carid` command.

from client import CarIdentifierClient

with CarIdentifierClient("http://127.0.0.1:8000") as cars:
    answer = cars.identify("photo.jpg")
    print(answer.label, answer.confidence, answer.verdict)

A server that wants an API key: `CarIdentifierClient(url, api_key="carid_…")`, or CARID_API_KEY.
"""

from client.api import DEFAULT_URL, CarIdentifierClient
from client.errors import (
    CarIdentifierError,
    NotFoundError,
    RateLimitedError,
    RequestRefusedError,
    ServerNotRunningError,
    ServerUnavailableError,
    UnauthorizedError,
    UnexpectedAnswerError,
)
from client.types import (
    Answer,
    Canary,
    Car,
    Heatmap,
    LabelTable,
    ModelTable,
    ModelVersion,
    Prediction,
    Region,
)

__all__ = [
    "DEFAULT_URL",
    "Answer",
    "Canary",
    "Car",
    "CarIdentifierClient",
    "CarIdentifierError",
    "Heatmap",
    "LabelTable",
    "ModelTable",
    "ModelVersion",
    "NotFoundError",
    "Prediction",
    "RateLimitedError",
    "Region",
    "RequestRefusedError",
    "ServerNotRunningError",
    "ServerUnavailableError",
    "UnauthorizedError",
    "UnexpectedAnswerError",
]
