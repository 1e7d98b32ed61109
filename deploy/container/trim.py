"""Take out of a folder of Python code what serving never reads: `python trim.py FOLDER`.

The folder is a virtual environment, or the project's own code. What is left is compiled. The same
input gives the same bytes: files get the time of SOURCE_DATE_EPOCH, compiled ones hold no times.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import sys
from pathlib import Path

# Patterns below site-packages.
_NEVER_READ = (
    # Installing ends here.
    "pip", "pip-*.dist-info", "setuptools", "setuptools-*.dist-info", "_distutils_hack",
    "distutils-precedence.pth", "pkg_resources", "wheel", "wheel-*.dist-info",
    # For building and testing C++ extensions, and for type checkers.
    "torch/include", "torch/share", "torch/test", "torch/bin/[!t]*", "torch/bin/test*",
    "torch/lib/*.a", "numpy/_core/include", "numpy/_core/lib", "numpy/random/lib", "numpy/f2py",
    "openvino/include", "openvino/cmake", "openvino/tools", "openvino/samples", "**/*.pyi",
    # OpenVINO reads its own format here, and runs on the CPU.
    "openvino/libs/libopenvino_[!i]*_frontend.so*", "openvino/libs/libopenvino_intel_[!c]pu*",
    "openvino/libs/libopenvino_intel_npu*", "openvino/libs/cache.json",
    "openvino/libs/libopenvino_auto*_plugin.so", "openvino/libs/libopenvino_hetero_plugin.so",
    # TorchServe's C++ backend and its tests, and everybody else's tests.
    "ts/cpp", "**/tests",
)  # fmt: skip


def main(folder: str) -> None:
    """Remove, compile, and set the times."""
    root = Path(folder)
    for packages in root.glob("lib/python*/site-packages"):
        for path in [path for pattern in _NEVER_READ for path in packages.glob(pattern)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for cache in [*root.rglob("__pycache__")]:
        shutil.rmtree(cache)
    for path in root.glob("bin/*"):
        if not path.name.startswith("python"):  # commands of packages; nobody calls them here
            path.unlink()
    compileall.compile_dir(
        root, quiet=2, workers=0, maxlevels=30,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip
    epoch = float(os.environ.get("SOURCE_DATE_EPOCH", 0))
    for path in [root, *root.rglob("*")]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


if __name__ == "__main__":
    main(sys.argv[1])
