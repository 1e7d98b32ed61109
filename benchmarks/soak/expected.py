"""What an archive's own code makes of files, one by one and without any server.

Run as a script, never imported: in this process `handler` is the archive's, so that both sides of
the comparison are the same code, whatever the working tree holds.

    python benchmarks/soak/expected.py UNPACKED_ARCHIVE FOLDER_OF_FILES RESULT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(archive: Path, folder: Path, result: Path) -> None:
    """Write file name → what the worker should answer."""
    sys.path.insert(0, str(archive))
    from handler.identifier import CarIdentifier

    identifier: Any = CarIdentifier.from_directory(archive)
    expected = {}
    for path in sorted(folder.iterdir()):
        [outcome] = identifier.identify([path.read_bytes()])
        body = outcome.to_json()
        if "error" in body:
            expected[path.name] = {"status": outcome.status, "code": body["error"]["code"]}
        else:
            expected[path.name] = {
                "status": 200,
                "class_id": body["class_id"],
                "confidences": [entry["confidence"] for entry in body["predictions"]],
            }
    result.write_text(json.dumps(expected))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
