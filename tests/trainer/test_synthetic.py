"""Synthetic defects: visible where the mask says so, the same from the same stream."""

import numpy as np
import pytest

from agp_edge.trainer.synthetic import FAMILIES, smooth_noise, with_defect


def pictures(small, height=96, width=128):
    return [
        np.repeat(small.texture(seed, height, width)[:, :, None], 3, axis=2).astype(np.float32)
        for seed in (1, 2)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_defect_changes_what_its_mask_covers(small, family):
    image, other = pictures(small)
    before = image.copy()
    everywhere = np.ones(image.shape[:2], np.float32)
    covered = []
    for seed in range(12):
        changed, mask = with_defect(image, other, everywhere, family, np.random.default_rng(seed))
        again, _ = with_defect(image, other, everywhere, family, np.random.default_rng(seed))
        assert np.array_equal(changed, again)
        assert changed.dtype == np.float32
        assert mask.dtype == np.bool_
        assert changed.shape == image.shape
        assert mask.shape == image.shape[:2]
        assert changed.min() >= 0
        assert changed.max() <= 255
        difference = np.abs(changed - image).max(axis=2)
        if mask.any():
            # what the mask leaves out changed less than what it covers
            assert difference[mask].mean() > difference[~mask].mean()
            assert difference[~mask].max(initial=0.0) <= max(
                0.2 * difference.max(), 0.06 * np.ptp(np.percentile(image, (2, 98))), 3.0
            )
        covered.append(mask.mean())
    assert np.array_equal(image, before)
    assert np.count_nonzero(covered) >= 8  # nearly each draw can be seen
    assert max(covered) < 0.9


def test_defects_are_centred_where_they_may_be(small):
    image, other = pictures(small)
    where = np.zeros(image.shape[:2], np.float32)
    where[10:20, 90:100] = 1
    rows, columns = [], []
    for seed in range(40):
        _, mask = with_defect(image, other, where, "blob", np.random.default_rng(seed))
        if mask.any():
            y, x = np.nonzero(mask)
            near = np.argmin(np.hypot(y - 15, x - 95))
            rows.append(y[near])
            columns.append(x[near])
    assert len(rows) >= 20
    assert abs(np.median(rows) - 15) < 8
    assert abs(np.median(columns) - 95) < 8


def test_without_any_weight_a_defect_lies_anywhere(small):
    image, other = pictures(small)
    nowhere = np.zeros(image.shape[:2], np.float32)
    masks = [
        with_defect(image, other, nowhere, "chunk", np.random.default_rng(seed))[1]
        for seed in range(10)
    ]
    assert sum(mask.any() for mask in masks) >= 5


def test_smooth_noise_fills_its_range():
    noise = smooth_noise((40, 60), 4.0, np.random.default_rng(0))
    assert noise.shape == (40, 60)
    assert noise.min() == 0.0
    assert noise.max() == pytest.approx(1.0)
    assert np.abs(np.diff(noise, axis=1)).max() < 0.5
