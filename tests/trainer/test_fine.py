"""The fine maps: silent until calibrated; they see what is thin, and one what is strong."""

import pytest
import torch

from agp_edge.dataset import Sample
from agp_edge.errors import ModelError
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.fine import Patches
from agp_edge.trainer.fine_training import fit_fine

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)
NONE = {"fine_regions": 0, "patch_memory": 0}


@pytest.mark.parametrize("kind", [{}, {"fine_regions": 0}, {"patch_memory": 0}])
def test_they_are_silent_until_calibrated(small, kind):
    model = small.new_model(small.model_config(decoder="memory", memory=6, **kind))
    without = small.new_model(small.model_config(decoder="memory", memory=6, **NONE))
    without.load_state_dict(model.state_dict(), strict=False)
    image = torch.rand(2, 3, small.SIZE, small.SIZE)
    assert without.output_grid == without.grid
    finer = torch.nn.functional.interpolate(
        without(image), model.output_grid, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(model(image), finer)


@pytest.mark.parametrize(
    "kind",
    [
        {"fine_regions": 4, "patch_memory": 0},
        {"fine_regions": 0, "fine_memory": 8, "patch_memory": 0},
        {"fine_regions": 0, "patch_memory": 8},
    ],
)
def test_each_sees_a_thin_scratch_that_the_coarse_grid_does_not(small, tmp_path, kind):
    """A line of one pixel in good texture stands out more on the fine grid."""
    torch.manual_seed(0)  # of the backbone's weights
    files = sorted(small.write_images(tmp_path / "good", 24).iterdir())
    reader = ImageReader(small.SIZE, small.SIZE, MEAN, STD)
    config = small.model_config(decoder="memory", memory=8, fine_centred=False, **kind)
    model = small.new_model(config)
    samples = [Sample(path, "good") for path in files]
    fit_fine(model, samples, shrinkage=0.03, seed=0, reader=reader, progress=False)
    (fine,) = model.fine_maps()
    image = reader.read([samples[0]])
    marked = image.clone()
    marked[:, :, small.SIZE // 2, small.SIZE // 4 : -small.SIZE // 4] = 1.0
    with torch.no_grad():
        good, bad = (fine(fine.tokens(model.backbone(batch)))[0, 0] for batch in (image, marked))
    row = model.output_grid[0] // 2
    change = (bad - good).abs()
    assert change[row - 1 : row + 1].max() > 3 * float(good.std())
    # an untrained backbone smears, yet what changes most lies at the line
    assert float(change[row - 2 : row + 2].mean()) > 2 * float(change[: row - 2].mean())


def test_patches_keep_the_strength_that_normalised_tokens_lose():
    """A layer that answers twice as strongly everywhere is another image to the patches alone."""
    torch.manual_seed(0)
    patches = Patches((6, 9), (8, 8), prototypes=16, weight=1.0, position=False)
    layers = [torch.randn(16, 6, 8, 8) + 2.0, torch.randn(16, 9, 4, 4)]
    tokens = patches.tokens(layers)
    patches.geometry.fit([tokens])
    patches.known.fit(patches.geometry(tokens.flatten(0, 1)), seed=0)
    usual = patches.raw(tokens).mean()
    assert patches.raw(patches.tokens([2.0 * layers[0], layers[1]])).mean() > 2.0 * usual
    # the second layer is not seen
    same = patches.tokens([layers[0], torch.zeros_like(layers[1])])
    torch.testing.assert_close(same, tokens)


def test_regions_and_prototypes_exclude_each_other(small):
    with pytest.raises(ModelError, match="4 regions and 8 prototypes"):
        small.new_model(small.model_config(fine_memory=8))
    without = small.new_model(small.model_config(**NONE))
    assert without.fine_maps() == ()
