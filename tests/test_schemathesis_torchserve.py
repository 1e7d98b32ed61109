"""The live TorchServe against our description of it, by requests that schemathesis makes of it.

TorchServe is not ours and is no careful server, so some checks can't hold; each is named below with
the reason. What changes versions or workers is not called at random: those calls are all made, one
by one, in test_openapi_torchserve.py.
"""

from __future__ import annotations

import json

import photo_strategies
import pytest
import requests
import schemathesis
import yaml
from hypothesis import settings
from live_stack import ROOT, LiveStack
from schemathesis.config import SchemathesisConfig

pytestmark = pytest.mark.live

DESCRIPTION = ROOT / "openapi" / "torchserve.yaml"
MANAGEMENT = "http://127.0.0.1:8081"
EXAMPLES = 25  # of each kind and operation, besides those that its description alone brings about

# Other tests need the model, its one version and its one worker.
CHANGES_THE_MODEL = [
    "register",  # any name with the bundled archive's url would be another model in memory
    "scale",
    "scale_version",
    "unregister",
    "unregister_version",
]

CANNOT_HOLD = {
    # A missing or wrong key is a 400 here, where a 401 or 403 is expected.
    "ignored_auth",
    "missing_required_header",
    # Any method is taken for the one that is meant (PUT predicts), and a 405 has no Allow.
    "unsupported_method",
    # What it does not know or understand is passed over: limit=x lists everything.
    "negative_data_rejection",
}

photo_strategies.register()
schema = schemathesis.openapi.from_dict(
    photo_strategies.with_formats(yaml.safe_load(DESCRIPTION.read_text())),
    config=SchemathesisConfig.from_dict(
        {
            # Else nearly every call would end at a model that does not exist.
            "parameters": {"path.model_name": "car_identifier"},
            "checks": {name: {"enabled": False} for name in CANNOT_HOLD},
            # A DELETE where none is described (of `…/set-default`) removes the model all the same.
            "phases": {"coverage": {"unexpected-methods": []}},
        }
    ),
).exclude(operation_id=CHANGES_THE_MODEL)


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_torchserve_is_as_described(case: schemathesis.Case, live_stack: LiveStack) -> None:
    definition = case.operation.definition.raw
    [security] = definition["security"]
    key = json.loads(live_stack.key_file.read_text())[next(iter(security))]["key"]
    is_management = case.operation.path.startswith(("/models", "/token"))
    case.call_and_validate(
        live_stack.management_url if is_management else live_stack.inference_url,
        headers={"Authorization": f"Bearer {key}"},
    )


def test_the_model_was_left_as_it_was(live_stack: LiveStack) -> None:
    response = requests.get(f"{live_stack.url}/v1/models", timeout=30)
    [version] = response.json()["versions"]
    assert version["ready_workers"] == 1
