"""pytest tests/tasks/runtime/test_peak_memory.py — the highest point of a block, whatever other blocks watch inside it."""

import torch

from tasks.runtime.peak_memory import measured_peak

MEBI = 1 << 20


def use(mebibytes):
    return torch.ones(mebibytes * MEBI // 4).sum()


def test_a_block_sees_its_own_peak_and_that_of_blocks_inside():
    with measured_peak() as outer:
        use(300)
        with measured_peak() as small:
            use(1)
        with measured_peak() as large:
            use(600)
    assert large.bytes > small.bytes + 500 * MEBI
    assert outer.bytes >= large.bytes > outer.bytes - 100 * MEBI


def test_what_was_held_before_a_block_began_and_freed_is_not_its_own():
    use(600)
    with measured_peak() as peak:
        use(1)
    with measured_peak() as again:
        use(600)
    assert again.bytes > peak.bytes + 500 * MEBI


def test_nested_blocks_of_the_same_height_end_in_order():
    with measured_peak() as outer, measured_peak() as middle:
        with measured_peak() as inner:
            use(300)
        use(1)
    assert outer.bytes >= middle.bytes >= inner.bytes > 0
