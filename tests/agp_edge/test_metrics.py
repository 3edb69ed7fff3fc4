"""Metrics against plain loops that share no code with them, and against scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from agp_edge.errors import DataError
from agp_edge.metrics import (
    PixelScores,
    aupro,
    average_precision,
    f1_max,
    image_auroc,
    image_auroc_interval,
    pixel_auroc,
    rate_interval,
)


def pairwise_auroc(defective, scores):
    """Share of (defective, good) pairs in the right order, ties half."""
    wins = pairs = 0.0
    for bad, high in zip(defective, scores, strict=True):
        for other, low in zip(defective, scores, strict=True):
            if bad and not other:
                pairs += 1
                wins += 1.0 if high > low else 0.5 if high == low else 0.0
    return wins / pairs


def flood_regions(mask):
    """Sets of pixels connected over edges or corners, by flood fill."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    regions = []
    while left:
        queue, region = [left.pop()], set()
        while queue:
            y, x = queue.pop()
            region.add((y, x))
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (y + dy, x + dx) in left:
                        left.remove((y + dy, x + dx))
                        queue.append((y + dy, x + dx))
        regions.append(region)
    return regions


def loop_aupro(maps, masks, limit):
    """Per-region overlap at every threshold that occurs, integrated by the trapezoid rule."""
    regions = [(n, region) for n, mask in enumerate(masks) for region in flood_regions(mask)]
    values = sorted({float(value) for scores in maps for value in scores.ravel()}, reverse=True)
    points = [(0.0, 0.0)]
    for threshold in values:
        false = total = 0
        for scores, mask in zip(maps, masks, strict=True):
            for value, bad in zip(scores.ravel(), mask.ravel(), strict=True):
                if not bad:
                    total += 1
                    false += value >= threshold
        overlaps = [
            sum(maps[n][pixel] >= threshold for pixel in region) / len(region)
            for n, region in regions
        ]
        points.append((false / total, sum(overlaps) / len(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
        else:
            y_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            area += (limit - x0) * (y0 + y_limit) / 2
            break
    return area / limit


def random_case(seed, *, images=4, size=(9, 11), levels=None):
    """Maps and masks with several regions an image, one of them of a single pixel."""
    generator = np.random.default_rng(seed)
    masks = [generator.random(size) < 0.25 for _ in range(images)]
    masks[0][:] = False  # a good image
    masks[1][:] = False
    masks[1][4, 5] = True
    maps = [
        (generator.normal(size=size) + mask * generator.uniform(0, 2)).astype(np.float32)
        for mask in masks
    ]
    if levels is not None:
        maps = [np.round(scores * levels) / np.float32(levels) for scores in maps]
    return maps, masks


@pytest.mark.parametrize("levels", [None, 1, 3])  # without ties, with many, with some
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_loops_over_thresholds(seed, limit, levels):
    maps, masks = random_case(seed, levels=levels)
    found = aupro(PixelScores.collect(maps, masks), limit)
    assert found == pytest.approx(loop_aupro(maps, masks, limit), abs=1e-12)


def test_aupro_with_limits_on_and_between_thresholds():
    # 10 defect-free pixels, so rates are multiples of 0.1: 0.3 falls on one, 0.25 between two
    maps = [np.arange(12, dtype=np.float32).reshape(3, 4)]
    masks = [np.zeros((3, 4), bool)]
    masks[0][0, 0] = masks[0][2, 3] = True  # lowest and highest value: two regions
    for limit in (0.25, 0.3, 0.95, 1.0):
        found = aupro(PixelScores.collect(maps, masks), limit)
        assert found == pytest.approx(loop_aupro(maps, masks, limit), abs=1e-12)
        assert found == pytest.approx(0.5, abs=1e-12)  # one region at once, the other never


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_aupro_equals_loops_on_any_small_map(data):
    size = (data.draw(st.integers(1, 4)), data.draw(st.integers(2, 4)))
    count = size[0] * size[1]
    values = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    bits = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    if all(bits) or not any(bits):
        bits[0] = not bits[0]
    maps = [np.array(values, np.float32).reshape(size)]
    masks = [np.array(bits).reshape(size)]
    limit = data.draw(st.sampled_from([0.1, 0.3, 1 / 3, 0.5, 1.0]))
    found = aupro(PixelScores.collect(maps, masks), limit)
    assert found == pytest.approx(loop_aupro(maps, masks, limit), abs=1e-12)


def test_regions_touching_at_a_corner_are_one():
    mask = np.eye(3, dtype=bool)
    assert PixelScores.collect([np.zeros((3, 3), np.float32)], [mask]).regions == 1


def test_aupro_weighs_small_regions_like_large_ones():
    mask = np.zeros((10, 10), bool)
    mask[:5, :8] = True  # 40 pixels, not found
    mask[9, 9] = True  # one pixel, found
    scores = mask * np.float32(0) + np.arange(100, dtype=np.float32).reshape(10, 10) / 1000 + 1
    scores[:5, :8] = 0
    scores[9, 9] = 9
    pixels = PixelScores.collect([scores], [mask])
    assert aupro(pixels) == pytest.approx(0.5)
    assert pixel_auroc(pixels) < 0.05


@pytest.mark.parametrize("levels", [None, 2])
def test_pixel_auroc_equals_sklearn_on_flattened_maps(levels):
    maps, masks = random_case(7, images=6, size=(32, 20), levels=levels)
    expected = roc_auc_score(
        np.concatenate([mask.ravel() for mask in masks]),
        np.concatenate([scores.ravel() for scores in maps]),
    )
    assert pixel_auroc(PixelScores.collect(maps, masks)) == pytest.approx(expected, abs=1e-12)


def test_joined_groups_equal_one_collection():
    maps, masks = random_case(3, images=6)
    whole = PixelScores.collect(maps, masks)
    joined = PixelScores.join(
        [PixelScores.collect(maps[:2], masks[:2]), PixelScores.collect(maps[2:], masks[2:])]
    )
    assert aupro(joined) == pytest.approx(aupro(whole), abs=1e-12)
    assert pixel_auroc(joined) == pytest.approx(pixel_auroc(whole), abs=1e-12)
    assert joined.regions == whole.regions


def test_image_metrics_against_loops():
    generator = np.random.default_rng(0)
    defective = generator.random(40) < 0.4
    scores = np.round(generator.normal(size=40) + defective, 1)  # rounded: ties
    assert image_auroc(defective, scores) == pytest.approx(pairwise_auroc(defective, scores))

    precision, recall, best, before = [], [], 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        hit = sum((scores >= threshold) & defective)
        precision.append(hit / sum(scores >= threshold))
        recall.append(hit / sum(defective))
        if hit:
            best = max(best, 2 * precision[-1] * recall[-1] / (precision[-1] + recall[-1]))
    ap = 0.0
    for p, r in zip(precision, recall, strict=True):
        ap, before = ap + p * (r - before), r
    assert average_precision(defective, scores) == pytest.approx(ap)
    assert f1_max(defective, scores) == pytest.approx(best)


@pytest.mark.parametrize("metric", [image_auroc, average_precision, f1_max, image_auroc_interval])
@pytest.mark.parametrize("label", [True, False])
def test_one_class_is_a_data_error_that_counts_both(metric, label):
    good, bad = (0, 3) if label else (3, 0)
    with pytest.raises(DataError, match=rf"{good} good and {bad} defective images"):
        metric([label] * 3, [0.1, 0.2, 0.3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        image_auroc([True, False], [value, 0.0])
    with pytest.raises(DataError, match="not finite"):
        PixelScores.collect([np.full((2, 2), value, np.float32)], [np.eye(2, dtype=bool)])


def test_pixel_metrics_need_both_kinds_of_pixels():
    scores = np.zeros((2, 2), np.float32)
    with pytest.raises(DataError, match="no defective pixel"):
        aupro(PixelScores.collect([scores], [np.zeros((2, 2), bool)]))
    with pytest.raises(DataError, match="no defect-free pixel"):
        pixel_auroc(PixelScores.collect([scores], [np.ones((2, 2), bool)]))


def test_mismatched_arguments_are_value_errors():
    with pytest.raises(ValueError, match="equal vectors"):
        image_auroc([True, False], [0.0])
    with pytest.raises(ValueError, match="1 parts given for 2 images"):
        image_auroc_interval([True, False], [1.0, 0.0], parts=["a"])
    with pytest.raises(ValueError, match="has a mask of"):
        PixelScores.collect([np.zeros((2, 2), np.float32)], [np.zeros((2, 3), bool)])
    pixels = PixelScores.collect([np.zeros((2, 2), np.float32)], [np.eye(2, dtype=bool)])
    with pytest.raises(ValueError, match="limit"):
        aupro(pixels, 0.0)


def test_interval_repeats_with_its_seed_and_contains_the_estimate():
    generator = np.random.default_rng(1)
    defective = np.arange(60) % 2 == 0
    scores = generator.normal(size=60) + defective
    first = image_auroc_interval(defective, scores, seed=5)
    assert first == image_auroc_interval(defective, scores, seed=5)
    assert first != image_auroc_interval(defective, scores, seed=6)
    assert first[0] < image_auroc(defective, scores) < first[1]


def test_interval_equals_resampling_of_photos_with_sklearn():
    generator = np.random.default_rng(2)
    defective = np.arange(40) < 15
    scores = np.round(generator.normal(size=40) + defective, 1)
    found = image_auroc_interval(defective, scores, resamples=4000)
    good, bad = np.flatnonzero(~defective), np.flatnonzero(defective)
    estimates = []
    for _ in range(1500):
        drawn = np.concatenate([generator.choice(good, len(good)), generator.choice(bad, len(bad))])
        estimates.append(roc_auc_score(defective[drawn], scores[drawn]))
    # both ends carry the noise of their resamples: a few hundredths of a width of about 0.3
    assert found == pytest.approx(np.quantile(estimates, [0.025, 0.975]), abs=0.03)


def test_photos_of_one_part_widen_the_interval():
    generator = np.random.default_rng(3)
    parts = np.repeat(np.arange(20), 6)
    defective = parts % 2 == 0
    scores = generator.normal(size=20)[parts] + defective  # six photos of a part say the same
    by_photo = image_auroc_interval(defective, scores)
    by_part = image_auroc_interval(defective, scores, parts=[str(part) for part in parts])
    assert by_part[1] - by_part[0] > 1.8 * (by_photo[1] - by_photo[0])


def test_interval_with_parts_that_hold_both_classes():
    defective = [True, False, True, False]
    parts = ["a", "a", "b", "b"]
    low, high = image_auroc_interval(defective, [0.9, 0.1, 0.8, 0.2], parts=parts)
    assert (low, high) == (1.0, 1.0)


def test_interval_covers_the_true_value_about_as_often_as_it_says():
    # scores N(0, 1) and N(1, 1): the true AUROC is Phi(1 / sqrt 2)
    true = 0.7602499389065233
    generator = np.random.default_rng(4)
    parts = [str(number // 2) for number in range(120)]
    covered = 0
    for repeat in range(200):
        defective = np.arange(120) >= 60
        # two photos of a part share most of their score
        shared = np.repeat(generator.normal(size=60), 2) * np.sqrt(0.8)
        scores = shared + generator.normal(size=120) * np.sqrt(0.2) + defective
        low, high = image_auroc_interval(defective, scores, parts=parts, resamples=300, seed=repeat)
        covered += low <= true <= high
    assert 0.88 <= covered / 200 <= 0.985


@pytest.mark.parametrize(("count", "total"), [(0, 20), (1, 20), (7, 96), (20, 20)])
def test_rate_interval_ends_where_the_count_becomes_improbable(count, total):
    def at_most(rate, number):
        return sum(
            math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(number + 1)
        )

    low, high = rate_interval(count, total)
    assert low <= count / total <= high
    if count:
        assert 1 - at_most(low, count - 1) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0.0
    if count < total:
        assert at_most(high, count) == pytest.approx(0.025, rel=1e-6)
    else:
        assert high == 1.0
