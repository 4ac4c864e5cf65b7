"""Stored optimizer states, compared block by block."""

from __future__ import annotations

from typing import Any

import pytest
import torch

READINGS = ("weight_norm", "adam_norm", "trust_ratio")  # of LAMB's last step, which the next one makes anew
NUM_STEPS = 8  # beyond RAdam's first steps, which are SGD's


def pieces_along(axis: int, new: int, old: int, factor: int, name: str) -> int:
    """How many blocks an axis of a grown tensor falls into: copies, of each part of a fused projection."""
    if new == old:
        return 1
    return 3 * factor if "c_attn" in name and axis == -1 else factor


def worst_block_error(name: str, found: torch.Tensor, expected: torch.Tensor, old: torch.Size, factor: int) -> float:
    """Largest difference in any block, relative to that block's largest entry."""
    assert found.shape == expected.shape
    pairs = [(found, expected)]
    for axis in range(-found.dim(), 0):
        count = pieces_along(axis, found.shape[axis], old[axis], factor, name)
        pairs = [
            part for one, other in pairs for part in zip(one.chunk(count, axis), other.chunk(count, axis), strict=True)
        ]
    return max(float((one - other).abs().max() / other.abs().max().clamp(min=1e-300)) for one, other in pairs)


def states_by_name(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    return {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}


def assert_equal_states(small: Any, found: Any, real: Any, factor: int, tolerance: float) -> None:
    for name, record in real.items():
        assert set(found[name]) == set(record)
        for key, expected in record.items():
            value = found[name][key]
            if key == "Q" or (key == "exp_avg_sq" and "Q" in record):
                continue  # any eigenvectors of the same products serve: what they make is compared by steps
            if key == "GG":
                for one, other, old in zip(value, expected, small[name][key], strict=True):
                    if len(other):
                        count = len(other) // len(old) * (3 if "c_attn" in name and one.shape[0] % 3 == 0 else 1)
                        blocks = [part for row in one.chunk(count, 0) for part in row.chunk(count, 1)]
                        wanted = [part for row in other.chunk(count, 0) for part in row.chunk(count, 1)]
                        for part, want in zip(blocks, wanted, strict=True):
                            assert float((part - want).abs().max()) <= tolerance * float(want.abs().max()), (name, key)
                continue
            if key in READINGS:
                assert float(value) == float(small[name][key])
                continue
            if not isinstance(expected, torch.Tensor) or expected.dim() == 0:
                assert float(value) == pytest.approx(float(expected), rel=tolerance), (name, key)
            elif name.endswith("c_attn.bias"):  # the keys' part has gradient zero, but for rounding
                assert float((value - expected).abs().max()) <= tolerance * float(expected.abs().max()), (name, key)
            else:
                error = worst_block_error(name, value, expected, small[name][key].shape, factor)
                assert error <= tolerance, (name, key, error)
