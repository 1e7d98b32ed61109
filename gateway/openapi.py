"""`python -m gateway.openapi > openapi/car-identifier.yaml` writes the public API's description."""

from __future__ import annotations

import sys

import yaml

from gateway.app import create_app
from gateway.settings import Settings

__all__ = ["openapi_yaml"]

_HEADER = "# Written by `python -m gateway.openapi`; a test keeps it in step with gateway/.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and every object in full."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def openapi_yaml() -> str:
    """The OpenAPI 3.1 description of the gateway, as YAML."""
    description = create_app(Settings()).openapi()
    return _HEADER + yaml.dump(
        description, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


if __name__ == "__main__":
    sys.stdout.write(openapi_yaml())
