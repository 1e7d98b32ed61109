"""Which Python packages a role installs: what pyproject.toml asks for, and what that asks for."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.bootstrap import BootstrapError, Project

__all__ = ["installed_for", "licence_of"]


def installed_for(extra: str) -> dict[str, metadata.Distribution]:
    """The installed packages of an extra with all they need, by canonical name.

    Raises:
        BootstrapError: one of them is not installed.
    """
    project = Project.read()
    waiting = [Requirement(name) for name in project.closure(extra) if name not in project.extras]
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        try:
            found[name] = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError as error:
            raise BootstrapError(
                f"{wanted.name} is not installed here: python3.11 deploy/bootstrap.py dev"
            ) from error
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": one}) for one in ("", *wanted.extras)
            ):
                waiting.append(needed)
    return found


def licence_of(package: metadata.Distribution) -> str:
    """What a package says of its licence, on one line; empty if it says nothing."""
    told = package.metadata.json
    classifiers = [
        line.removeprefix("License :: ").removeprefix("OSI Approved :: ")
        for line in told.get("classifier", ())
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    # Some put the licence's whole text into the old field.
    old = str(told.get("license", "")).strip().partition("\n")[0]
    return str(told.get("license_expression") or "; ".join(classifiers) or old)
