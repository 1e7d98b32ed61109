"""The Python client and the `carid` command.

from client import CarIdentifierClient

with CarIdentifierClient("http://127.0.0.1:8000") as cars:
    answer = cars.identify("photo.jpg")
    print(answer.label, answer.confidence, answer.verdict)
"""

from client.api import DEFAULT_URL, CarIdentifierClient
from client.errors import (
    CarIdentifierError,
    RequestRefusedError,
    ServerNotRunningError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)
from client.types import Answer, Car, LabelTable, Prediction

__all__ = [
    "DEFAULT_URL",
    "Answer",
    "Car",
    "CarIdentifierClient",
    "CarIdentifierError",
    "LabelTable",
    "Prediction",
    "RequestRefusedError",
    "ServerNotRunningError",
    "ServerUnavailableError",
    "UnexpectedAnswerError",
]
