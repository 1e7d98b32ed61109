"""Identify photos without TorchServe: `python -m handler PHOTO... --archive ARCHIVE`.

Prints one JSON object per photo and line: the answer (or error) that the worker would give, and the
`file` it is about. The exit status is 1 if any photo could not be answered.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from handler.answer import Answer
from handler.archive import extract_archive
from handler.errors import ArchiveError, InvalidOptionError
from handler.identifier import CarIdentifier
from handler.options import Options

_BUNDLED = Path("model_store/car_identifier.mar")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m handler", description="Make, model and year of the cars on photos."
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--archive", type=Path, default=_BUNDLED, help="default: %(default)s")
    parser.add_argument("--top-k", default="5", help="predictions per photo, default: %(default)s")
    parser.add_argument("--box", help="left,top,right,bottom of the car in pixels")
    parser.add_argument("--explain", action="store_true", help="say where the network looked")
    parser.add_argument("--threads", type=int, help="CPU threads, default: all cores")
    args = parser.parse_args(arguments)
    try:
        explain = "true" if args.explain else None
        options = Options.parse(top_k=args.top_k, box=args.box, explain=explain)
        with extract_archive(args.archive) as directory:
            identifier = CarIdentifier.from_directory(directory, args.threads)
            answered = [_identify(identifier, path, options) for path in args.photos]
    except (ArchiveError, InvalidOptionError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0 if all(answered) else 1


def _identify(identifier: CarIdentifier, path: Path, options: Options) -> bool:
    """Print what is known about one photo; returns whether it could be answered."""
    try:
        data = path.read_bytes()
    except OSError as error:
        print(f"can't read {path}: {error.strerror}", file=sys.stderr)
        return False
    [result] = identifier.identify([data], [options])
    print(json.dumps({"file": str(path), **result.to_json()}, ensure_ascii=False))
    return isinstance(result, Answer)


if __name__ == "__main__":
    sys.exit(main())
