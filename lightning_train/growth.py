"""A deeper ResNet that starts as what a shallower one has learnt.

A block whose branch adds nothing leaves its input as it is, since that has passed a ReLU already.
So such blocks can be put between trained ones without any change of the function (Chen et al. 2016,
Net2Net, arXiv 1511.05641), and training goes on from there: an epoch of a ResNet-50 costs about a
third of a ResNet-152's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["grown"]

_BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(.+)")


def grown(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor] | None:
    """The weights of a deeper network that computes what a shallower one does.

    Trained blocks keep their order and are spread evenly over each stage, the first one, which
    changes the size, at its beginning. The others keep the network's own fresh weights, and their
    last norm's scale and shift are 0, as large models begin anyway (Goyal et al. 2017, section
    5.1), so that they learn from the first step.

    Args:
        state: the shallower `CarNetwork`'s weights, names as in its `state_dict`.
        network: the deeper one.

    Returns:
        Weights for `network.load_state_dict`, without those that `state` lacks; None if the one is
        no shallower kin of the other.
    """
    own = dict(network.state_dict())
    had, has = _blocks(state), _blocks(own)
    if had == has or had.keys() != has.keys() or any(had[it] > has[it] for it in had):
        return None
    result: dict[str, Tensor] = {}
    for key, fresh in own.items():
        found = _BLOCK.fullmatch(key)
        if found is None or int(found[1]) not in has:  # the stem or the head
            if key in state:
                result[key] = state[key]
            continue
        stage, place, rest = int(found[1]), int(found[2]), found[3]
        source = _source(place, had[stage], has[stage])
        if source is not None:
            if (trained := f"stages.{stage}.{source}.{rest}") in state:
                result[key] = state[trained]
        elif rest.startswith(_last_norm(own, stage, place)) and rest.endswith(("weight", "bias")):
            result[key] = fresh.new_zeros(fresh.shape)
        else:
            result[key] = fresh
    return result


def _blocks(state: Mapping[str, Tensor]) -> Counter[int]:
    """How many residual blocks each stage has; the stem has none."""
    places = {
        (int(found[1]), int(found[2]))
        for key in state
        if (found := _BLOCK.fullmatch(key)) and found[3].startswith("conv1.")
    }
    return Counter(stage for stage, _ in places)


def _source(place: int, had: int, has: int) -> int | None:
    """Which of the trained blocks stands here; None for a new one."""
    places = [block * has // had for block in range(had)]
    return places.index(place) if place in places else None


def _last_norm(state: Mapping[str, Tensor], stage: int, place: int) -> str:
    """The end of a block's branch: a bottleneck has three norms, a basic block two."""
    is_bottleneck = f"stages.{stage}.{place}.bn3.weight" in state
    return "bn3." if is_bottleneck else "bn2."
