"""A signal is answered by Python, not by SIGSEGV, whatever OpenVINO did before it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A signal that Python handles is all it takes; Ctrl-C is one.
INTERRUPT = """
import gc, os, signal
try:
    gc.collect()
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
ENGINES = """
import pathlib, sys
import numpy, openvino
from openvino import opset13
from handler.engine import OpenVinoEngine

pixels = opset13.parameter([-1, 4, 4, 3], numpy.float32, name="pixels")
graph = openvino.Model([opset13.relu(pixels), opset13.exp(pixels)], [pixels])
for output, name in zip(graph.outputs, ("logits", "feature_map")):
    output.get_tensor().set_names({name})
path = pathlib.Path(sys.argv[1]) / "model.xml"
openvino.save_model(graph, path)
first = OpenVinoEngine(path)
second = OpenVinoEngine(path)
del first  # not in the reverse order of their making
del second
"""


def test_ctrl_c_is_a_keyboard_interrupt_after_engines_came_and_went(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", ENGINES + INTERRUPT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.splitlines()[-1] == "interrupted"
