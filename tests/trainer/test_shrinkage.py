"""The weight of the whole image in a region's covariance: what good images of other parts say."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from agp_edge.dataset import part_folds
from agp_edge.errors import ModelError
from agp_edge.trainer.decoder_fitting import folds_of
from agp_edge.trainer.regions import Gaussians
from agp_edge.trainer.shrinkage import FOLDS, Moments, likeliest_weight

GRID, CHANNELS = (4, 4), 6


def tokens_of(images, seed, *, differ):
    """Tokens (images, 16, 6); `differ`: each of 2 x 2 regions has directions of its own."""
    random = np.random.default_rng(seed)
    places = np.random.default_rng(7)
    found = np.zeros((images, *GRID, CHANNELS), np.float32)
    shared = places.normal(size=(CHANNELS, CHANNELS))
    for row in (0, 2):
        for column in (0, 2):
            map_ = places.normal(size=(CHANNELS, CHANNELS)) if differ else shared
            drawn = random.normal(size=(images, 2, 2, CHANNELS)) @ map_
            found[:, row : row + 2, column : column + 2] = drawn
    return torch.from_numpy(found.reshape(images, 16, CHANNELS))


def moments_of(tokens):
    """The sums of 2 x 2 regions."""
    placed = tokens.double().reshape(-1, 2, 2, 2, 2, CHANNELS).permute(1, 3, 0, 2, 4, 5)
    rows = placed.reshape(4, -1, CHANNELS)
    count = torch.full((4,), float(rows.shape[1]), dtype=torch.float64)
    return Moments(len(tokens), count, rows.sum(1), rows.transpose(1, 2) @ rows)


def folds_from(tokens):
    return [moments_of(tokens[index::FOLDS]) for index in range(FOLDS)]


def test_places_that_differ_keep_their_own_and_others_share_one():
    assert likeliest_weight(folds_from(tokens_of(200, 0, differ=True))) == 6.0
    assert likeliest_weight(folds_from(tokens_of(200, 0, differ=False))) > 400.0


def test_the_weight_is_the_one_of_the_highest_likelihood():
    # places that differ a little: it is none of the outermost
    tokens = tokens_of(16, 1, differ=False) + 0.35 * tokens_of(16, 2, differ=True)
    best, at = -np.inf, None
    for weight in (6.0, 12.0, 25.0, 50.0, 100.0, 200.0):
        total = 0.0
        for fold in range(FOLDS):
            others = [index for index in range(len(tokens)) if index % FOLDS != fold]
            known, held = tokens[others].double(), tokens[fold::FOLDS].double()
            all_ = known.reshape(-1, CHANNELS).numpy()
            whole = np.cov(all_.T, bias=True)
            share = len(known) / (len(known) + weight)
            for row in (0, 2):
                for column in (0, 2):

                    def here(t, row=row, column=column):
                        region = t.reshape(-1, *GRID, CHANNELS)[
                            :, row : row + 2, column : column + 2
                        ]
                        return region.reshape(-1, CHANNELS).numpy()

                    own = here(known)
                    covariance = share * np.cov(own.T, bias=True) + (1.0 - share) * whole
                    law = multivariate_normal(own.mean(axis=0), covariance)
                    total += law.logpdf(here(held)).sum()
        if total > best:
            best, at = total, weight
    assert at not in {6.0, 200.0}
    assert likeliest_weight(folds_from(tokens)) == at


def test_directions_that_good_images_never_show_say_nothing():
    tokens = tokens_of(16, 1, differ=False) + 0.35 * tokens_of(16, 2, differ=True)
    flat = torch.cat([tokens, tokens.sum(dim=2, keepdim=True), torch.zeros(16, 16, 4)], dim=2)
    placed = flat.double().reshape(-1, 2, 2, 2, 2, 11).permute(1, 3, 0, 2, 4, 5)

    def sums(index):
        rows = placed[:, :, index::FOLDS].reshape(4, -1, 11)
        count = torch.full((4,), float(rows.shape[1]), dtype=torch.float64)
        images = len(range(index, 16, FOLDS))
        return Moments(images, count, rows.sum(1), rows.transpose(1, 2) @ rows)

    with_more = likeliest_weight([sums(index) for index in range(FOLDS)])
    assert with_more == likeliest_weight(folds_from(tokens))


def test_regions_take_the_likeliest_weight_of_the_folds_they_are_given():
    images = 80
    folds = np.arange(images) % FOLDS
    for differ, weight in ((True, 6.0), (False, 3200.0)):
        tokens = tokens_of(images, 3, differ=differ)
        chosen, given = Gaussians(CHANNELS, GRID, 2), Gaussians(CHANNELS, GRID, 2, images=weight)
        # batches that cut folds anywhere
        chosen.fit((tokens[:33], tokens[33:]), folds)
        given.fit([tokens])
        torch.testing.assert_close(chosen.matrix, given.matrix, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(chosen.mean, given.mean, rtol=1e-4, atol=1e-5)


def test_a_weight_that_is_given_draws_a_region_towards_the_whole_image():
    tokens = tokens_of(50, 4, differ=True)
    gaussian = Gaussians(CHANNELS, GRID, 2, images=150.0)
    gaussian.fit([tokens])
    rows = tokens.double().reshape(-1, *GRID, CHANNELS)
    own = rows[:, :2, :2].reshape(-1, CHANNELS).numpy()
    covariances = [
        np.cov(rows[:, r : r + 2, c : c + 2].reshape(-1, CHANNELS).numpy().T, bias=True)
        for r in (0, 2)
        for c in (0, 2)
    ]
    floor = 0.03 * np.mean([np.trace(covariance) for covariance in covariances]) / CHANNELS
    whole = np.cov(rows.reshape(-1, CHANNELS).numpy().T, bias=True)
    expected = 0.25 * np.cov(own.T, bias=True) + 0.75 * whole + floor * np.eye(CHANNELS)
    found = (gaussian.matrix[0] @ gaussian.matrix[0].T).double().numpy()
    np.testing.assert_allclose(found, np.linalg.inv(expected), rtol=2e-3, atol=1e-4)


def test_tokens_that_fill_no_direction_break_nothing():
    tokens = tokens_of(40, 5, differ=True)
    tokens[:, :, 2] = 0.0
    gaussian = Gaussians(CHANNELS, GRID, 2)
    gaussian.fit([tokens], np.arange(40) % FOLDS)
    assert torch.isfinite(gaussian.matrix).all()
    gaussian.fit([torch.zeros(40, 16, CHANNELS)], np.arange(40) % FOLDS)
    assert torch.isfinite(gaussian.distance(tokens)).all()


def test_photos_of_a_part_are_in_one_fold_and_few_parts_give_none():
    parts = [f"part {index // 3}" for index in range(60)]
    folds = part_folds(parts, FOLDS, 0)
    assert all(len(set(folds[index : index + 3])) == 1 for index in range(0, 60, 3))
    assert np.bincount(folds).tolist() == [15, 15, 15, 15]
    assert np.array_equal(folds_of(parts, 0), folds)
    assert folds_of(parts[:27], 0) is None
    assert part_folds([], FOLDS, 0).shape == (0,)


def test_a_negative_weight_is_refused():
    with pytest.raises(ModelError, match=r"region_images is -1.0; expected 0 or more"):
        Gaussians(CHANNELS, GRID, 2, images=-1.0)
