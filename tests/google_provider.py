"""Checks Terraform files against the schema of Google's provider; needs neither of the two.

`google_provider.json` holds that schema for the resources used in deploy/gcp: required and optional
arguments, nested blocks, and what other resources may refer to. It was taken out of the package
cdktf-cdktf-provider-google (PyPI, 49 MB), which carries all of it for the provider version 6.50.0;
after a resource of another type was added there:

    pip download --no-deps cdktf-cdktf-provider-google==16.12.1
    python tests/google_provider.py cdktf_cdktf_provider_google-16.12.1-py3-none-any.whl
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "gcp"
SCHEMA = Path(__file__).with_suffix(".json")

# Terraform's own, in every resource.
_META = {"count", "for_each", "depends_on", "lifecycle", "provider"}
# What hcl2 adds to every block.
_NOTES = {"__is_block__", "__comments__", "__inline_comments__"}


def parse(text: str) -> dict[str, Any]:
    """A Terraform file as nested dicts and lists; its names and string values keep their quotes."""
    return hcl2.loads(text)


def resources(parsed: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Type (with "data." before a data source's), name and arguments of each."""
    for kind in ("resource", "data"):
        for entry in parsed.get(kind, []):
            for quoted_type, instances in entry.items():
                for quoted_name, block in instances.items():
                    prefix = "data." if kind == "data" else ""
                    arguments = {it: block[it] for it in block if it not in _META}
                    yield prefix + quoted_type.strip('"'), quoted_name.strip('"'), arguments


def wrong_arguments(block: dict[str, Any], schema: dict[str, Any], where: str) -> list[str]:
    """What is not in the schema or missing from the block, in it and in the blocks inside it."""
    given = block.keys() - _NOTES
    problems = [f"{where} has no argument or block {name}" for name in given - schema["all"].keys()]
    problems += [f"{where} needs {name}" for name in set(schema["required"]) - given]
    for name in given & schema["all"].keys():
        inner = schema["all"][name]
        entries = block[name] if isinstance(block[name], list) else []
        blocks = [it for it in entries if isinstance(it, dict) and "__is_block__" in it]
        if bool(blocks) != (inner is not None):
            problems.append(f"{where}: {name} is {'no ' if inner is None else ''}a block")
        for entry in blocks if inner is not None else []:
            problems += wrong_arguments(entry, inner, f"{where}.{name}")
    return sorted(problems)


def wrong_references(text: str, parsed: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What is referred to, in all files together, and declared nowhere or has no such attribute."""
    code = re.sub(r"(^|\s)#.*$", "", text, flags=re.MULTILINE)
    variables = {name.strip('"') for entry in parsed.get("variable", []) for name in entry}
    named_locals = {name for entry in parsed.get("locals", []) for name in entry} - _NOTES
    declared = {f"{kind}.{name}": kind for kind, name, _ in resources(parsed)}
    problems = [f"var.{it} is not declared" for it in _found(r"\bvar\.(\w+)", code) - variables]
    problems += [
        f"local.{it} is not declared" for it in _found(r"\blocal\.(\w+)", code) - named_locals
    ]
    reference = r"(?<![\w.\"])((?:data\.)?google_\w+\.\w+)(?:\[[^]]*\])?(?:\.(\w+))?"
    for address, attribute in set(re.findall(reference, code)):
        if address not in declared:
            problems.append(f"{address} is not declared")
        elif attribute and attribute not in schema[declared[address]]["attributes"]:
            problems.append(f"{address} has no attribute {attribute}")
    problems += [
        f"variable {it} is used nowhere" for it in variables - _found(r"\bvar\.(\w+)", code)
    ]
    return sorted(problems)


def _found(pattern: str, text: str) -> set[str]:
    return set(re.findall(pattern, text))


def read_schema() -> dict[str, Any]:
    """The schema of each type of resource and data source that is used."""
    return json.loads(SCHEMA.read_text("utf-8"))["types"]


class _Assembly:
    """The schema as the package describes it: the classes that it generated from it."""

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as package:
            name = next(it for it in package.namelist() if it.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(package.read(name))) as archive:
                described = archive.extractfile("package/.jsii")
                assert described is not None
                self._types = json.load(described)["types"]

    def describe(self, kind: str) -> dict[str, Any]:
        """One type's arguments, blocks and attributes; `kind` is google_… or data.google_…."""
        data = kind.startswith("data.")
        words = kind.removeprefix("data.").removeprefix("google_").split("_")
        if data:
            words = ["data", "google", *words]
        name = "".join(word.capitalize() for word in words)
        stem = f"@cdktf/provider-google.{name[0].lower()}{name[1:]}.{name}"
        attributes = {_snake(it["name"]) for it in self._types[stem]["properties"]}
        return {
            **self._block(f"{stem}Config"),
            "attributes": sorted(it for it in attributes if not it.endswith("_input")),
        }

    def _block(self, fqn: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        required = []
        for entry in self._types[fqn].get("properties", []):
            # Each description ends in a link to the argument's own name.
            name = re.search(r"#(\w+)}", json.dumps(entry["docs"]))
            assert name is not None, entry
            inner = re.search(
                r'"fqn": "(@cdktf/provider-google\.[^"]+)"', json.dumps(entry["type"])
            )
            is_block = entry["docs"]["summary"].endswith(" block.") and inner is not None
            arguments[name[1]] = self._block(inner[1]) if inner and is_block else None
            if not entry.get("optional"):
                required.append(name[1])
        return {"all": dict(sorted(arguments.items())), "required": sorted(required)}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def main() -> None:
    """Write the schema of what is used in deploy/gcp, from the package named as the argument."""
    assembly = _Assembly(Path(sys.argv[1]))
    used = {kind for file in FOLDER.glob("*.tf") for kind, *_ in resources(parse(file.read_text()))}
    types = {kind: assembly.describe(kind) for kind in sorted(used)}
    lines = ",\n".join(f"{json.dumps(it)}: {json.dumps(types[it])}" for it in types)
    SCHEMA.write_text(f'{{"provider": "6.50.0", "types": {{\n{lines}\n}}}}\n', "utf-8")


if __name__ == "__main__":
    main()
