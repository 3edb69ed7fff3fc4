"""The fine map: silent until calibrated; sees what is thin; by regions or by a memory."""

import pytest
import torch

from agp_edge.dataset import Sample
from agp_edge.errors import ModelError
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.fine_training import fit_fine

MEAN, STD = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)


def test_it_is_silent_until_calibrated(small):
    model = small.new_model(small.model_config(decoder="memory", memory=6))
    without = small.new_model(small.model_config(decoder="memory", memory=6, fine_regions=0))
    without.load_state_dict(model.state_dict(), strict=False)
    image = torch.rand(2, 3, small.SIZE, small.SIZE)
    assert without.output_grid == without.grid
    finer = torch.nn.functional.interpolate(
        without(image), model.output_grid, mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(model(image), finer)


@pytest.mark.parametrize("kind", [{"fine_regions": 4}, {"fine_regions": 0, "fine_memory": 8}])
def test_it_sees_a_thin_scratch_that_the_coarse_grid_does_not(small, tmp_path, kind):
    """A line of one pixel in good texture stands out more on the fine grid."""
    torch.manual_seed(0)  # of the backbone's weights
    files = sorted(small.write_images(tmp_path / "good", 24).iterdir())
    reader = ImageReader(small.SIZE, small.SIZE, MEAN, STD)
    model = small.new_model(
        small.model_config(decoder="memory", memory=8, fine_centred=False, **kind)
    )
    samples = [Sample(path, "good") for path in files]
    fit_fine(model, samples, weight=0.5, shrinkage=0.03, seed=0, reader=reader, progress=False)
    assert model.fine is not None
    image = reader.read([samples[0]])
    marked = image.clone()
    marked[:, :, small.SIZE // 2, small.SIZE // 4 : -small.SIZE // 4] = 1.0
    with torch.no_grad():
        good, bad = (
            model.fine(model.fine.tokens(model.backbone(batch)))[0, 0] for batch in (image, marked)
        )
    row = model.output_grid[0] // 2
    change = (bad - good).abs()
    assert change[row - 1 : row + 1].max() > 3 * float(good.std())
    # an untrained backbone smears, yet what changes most lies at the line
    assert float(change[row - 2 : row + 2].mean()) > 2 * float(change[: row - 2].mean())


def test_regions_and_prototypes_exclude_each_other(small):
    with pytest.raises(ModelError, match="4 regions and 8 prototypes"):
        small.new_model(small.model_config(fine_memory=8))
    without = small.new_model(small.model_config(fine_memory=0, fine_regions=0))
    assert without.fine is None
