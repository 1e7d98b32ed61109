"""Which versions of the model are served."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from gateway import schemas
from gateway.canary import Canary
from gateway.errors import AnswerTimeoutError, ModelUnavailableError, error_responses
from gateway.upstream import TorchServe

__all__ = ["ServedModels", "router"]


class ServedModels:
    """Knows what is served, and who is on trial."""

    def __init__(self, name: str, upstream: TorchServe, canary: Canary) -> None:
        self._name = name
        self._upstream = upstream
        self._canary = canary

    async def get(self) -> schemas.Models:
        """All versions, the default one first.

        Raises:
            GatewayError: the model server does not answer.
        """
        versions = await self._upstream.versions()
        trial = self._canary.trial
        return schemas.Models(
            name=self._name,
            default_version=versions[0].version,
            versions=[
                schemas.ModelVersion(**asdict(version), default=version is versions[0])
                for version in versions
            ],
            canary=schemas.CanaryStatus(**asdict(trial)) if trial else None,
        )


def _served(request: Request) -> ServedModels:
    served: ServedModels = request.app.state.models
    return served


router = APIRouter(tags=["models"])


@router.get(
    "/v1/models",
    summary="The versions of the model that are served",
    responses=error_responses(ModelUnavailableError(), AnswerTimeoutError()),
)
async def models(served: Annotated[ServedModels, Depends(_served)]) -> schemas.Models:
    """What `version` can be, the default first, and how a new version on trial is doing.

    To read only: versions are registered and swapped by the operator's `carid models`.
    """
    return await served.get()
