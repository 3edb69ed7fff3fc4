"""One network for several products: who answers, one scale, the file, a run that goes on."""

import numpy as np
import onnxruntime
import pytest
import torch

from agp_edge.dataset import open_products
from agp_edge.errors import ModelError
from agp_edge.trainer.checkpoint import load_model, read_checkpoint
from agp_edge.trainer.data import ImageReader
from agp_edge.trainer.export import onnx_from_checkpoint
from agp_edge.trainer.graph import graph_from_model
from agp_edge.trainer.network import new_model
from agp_edge.trainer.products import ProductsNet
from agp_edge.trainer.state import read_state
from agp_edge.trainer.train import train


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run of two products that look unlike: stripes, and their negative turned by 90 degrees."""
    import cv2

    root = tmp_path_factory.mktemp("two")
    for name in ("cap", "screw"):
        folder = small.write_images(root / name / "train" / "good", 14)
        for path in folder.iterdir() if name == "screw" else ():
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(path), np.rot90(255 - image))
    options = {"weights": "random", "cache_dir": root / "cache", "progress": False}
    dataset = open_products([root / "cap", root / "screw"])
    config = small.train_config(setup="multi-class")
    run = train(dataset, root / "run", small.model_config(decoder="memory"), config, **options)
    return (
        dataset,
        run,
        lambda **more: train(
            dataset, root / "run", small.model_config(decoder="memory"), config, **options, **more
        ),
    )


def test_the_product_s_own_branch_answers(trained):
    dataset, run, _ = trained
    model, checkpoint = load_model(run.folder)
    assert isinstance(model, ProductsNet)
    assert checkpoint.products == ("cap", "screw")
    assert checkpoint.model.products == 2
    reader = ImageReader(64, 64, checkpoint.mean, checkpoint.std)
    alone = [load_model(run.folder / "products" / name)[0] for name in ("cap", "screw")]
    maps = []
    with torch.no_grad():
        for index, name in enumerate(("cap", "screw")):
            images = reader.read([s for s in dataset.train if s.product == name])
            found = model(images)
            expected = (alone[index](images) - model.mean[index]) / model.spread[index]
            expected = model.mean.mean() + model.spread.mean() * expected
            torch.testing.assert_close(found, expected)
            # images of both in one batch are told apart one by one
            maps.append((images[:2], expected[:2]))
        mixed = model(torch.cat([images for images, _ in maps]))
    torch.testing.assert_close(mixed, torch.cat([expected for _, expected in maps]))
    # on one scale: one threshold serves both
    assert torch.allclose(maps[0][1].mean(), maps[1][1].mean(), rtol=0.2)


def test_the_graph_says_the_same(trained):
    _, run, _ = trained
    model, _ = load_model(run.folder)
    graph = graph_from_model(model, 64, 64)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image).numpy()
    found = session.run(None, {"image": image.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_exported_graph_becomes_a_plan(trained, small, tmp_path):
    _, run, _ = trained
    onnx_from_checkpoint(run.folder, tmp_path / "model.onnx", progress=False)
    small.compile_plans(tmp_path / "model.onnx")


def test_a_run_goes_on_and_keeps_what_is_done(trained):
    dataset, run, again = trained
    before = load_model(run.folder)[0].state_dict()
    assert read_state(run.folder).identity.model.products == len(dataset.products)
    again(resume=True)
    after = load_model(run.folder)[0].state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert read_checkpoint(run.folder)[0].finished
    with pytest.raises(ModelError, match="holds a run already"):
        again()
    with pytest.raises(ModelError, match="fitted by one"):
        again(resume=True, processes=2)


def test_a_trained_decoder_has_no_branches(small):
    with pytest.raises(ModelError, match="products is 2 with the decoder 'transformer'"):
        new_model(small.model_config(decoder="transformer", products=2), "random", 0)
