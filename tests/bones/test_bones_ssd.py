"""SSD against torchvision's own: anchors at every size, boxes, losses."""

import pytest
import torch
from pydantic import ValidationError
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from bones.config import Config, Detector, Sampling
from bones.model import build
from bones.ssd import SingleShotDetector, anchor_metadata, default_boxes, expect_background, focal_loss

SMALL = 272  # a size at which SSD is quick


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(Config(detector=Detector(size_px=SMALL, anchors="small", labels=("fracture", "plate")))).eval()


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 1, SMALL, SMALL, generator=torch.Generator().manual_seed(1))


TARGET = {"boxes": torch.tensor([[20.0, 30, 60, 55], [100, 90, 240, 200]]), "labels": torch.tensor([1, 2])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def anchors_of(detector):
    """Lay anchors over feature maps as large as the network's, without computing these."""
    with torch.device("meta"):
        network = SingleShotDetector(detector)
    grids = anchor_metadata(network)["grids"]
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    side = detector.size_px
    generator = default_boxes(detector)
    return generator(ImageList(torch.zeros(1, 3, side, side), [(side, side)]), maps)[0], grids, generator


def test_anchors_at_300_are_those_of_torchvision():
    with torch.device("meta"):
        theirs = ssd300_vgg16(weights=None, weights_backbone=None).anchor_generator
    ours, grids, generator = anchors_of(Detector(size_px=300))
    assert grids == [[38, 38], [19, 19], [10, 10], [5, 5], [3, 3], [1, 1]]
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    expected = theirs(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)[0]
    assert ours.shape == (8732, 4)  # the paper's number of boxes at 300
    assert torch.equal(ours, expected)
    assert generator.steps == theirs.steps


@pytest.mark.parametrize("anchors", ["torchvision", "small"])
@pytest.mark.parametrize("size", [SMALL, 640, 1000])
def test_anchors_lie_over_the_picture_at_every_size(size, anchors):
    boxes, grids, generator = anchors_of(Detector(size_px=size, anchors=anchors))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres.min() > 0
    assert centres.max() < size
    start = 0
    for (rows, columns), each in zip(grids, generator.num_anchors_per_location(), strict=True):
        own = centres[start : start + rows * columns * each].reshape(rows, columns, each, 2)
        start += rows * columns * each
        step = size / columns
        # The first cell's centre is half a cell from the edge, the last one's too: nothing of the picture is left out.
        torch.testing.assert_close(own[0, 0], torch.full((each, 2), step / 2), atol=1e-3, rtol=0)
        torch.testing.assert_close(own[-1, -1], torch.full((each, 2), size - step / 2), atol=1e-3, rtol=0)
    assert start == len(boxes)


def test_small_anchors_fit_small_boxes_better():
    boxes = torch.tensor([[100.0, 100, 100 + w, 100 + h] for w, h in ((30, 22), (45, 30), (24, 24), (60, 25))])
    best = {name: box_iou(boxes, anchors_of(Detector(anchors=name))[0]).amax(1) for name in ("torchvision", "small")}
    assert (best["small"] > 0.5).all()
    assert best["small"].mean() > best["torchvision"].mean() + 0.1


def test_anchors_of_a_window_are_as_large_as_on_the_whole_picture():
    detector = Detector(size_px=2 * SMALL, anchors="small")
    expected, grids, _ = anchors_of(detector)
    with torch.device("meta"):
        network = SingleShotDetector(detector)
    maps = [torch.zeros(1, 1, rows // 2, columns // 2) for rows, columns in grids]
    window = network._anchors(torch.zeros(1, 1, SMALL, SMALL), maps)
    torch.testing.assert_close((window[:, 2:] - window[:, :2])[:6], (expected[:, 2:] - expected[:, :2])[:6])
    cells = maps[0].shape[-1]
    centres = (window[:, :2] + window[:, 2:]) / 2
    torch.testing.assert_close(centres[0], torch.full((2,), SMALL / cells / 2))
    torch.testing.assert_close(centres[cells**2 * 6 - 1], torch.full((2,), SMALL - SMALL / cells / 2))


def test_boxes_are_those_of_torchvision(network, picture):
    with torch.no_grad():
        ours = network.detect(picture)[0]
        theirs = network.ssd([picture[0].expand(3, -1, -1)])[0]
    assert len(ours["scores"]) > 10
    for name, values in theirs.items():
        torch.testing.assert_close(ours[name], values, atol=1e-4, rtol=1e-4)


def test_loss_is_that_of_torchvision(network, picture):
    network.ssd.train()
    with torch.no_grad():
        ours = network(picture, [TARGET])
        theirs = network.ssd([picture[0].expand(3, -1, -1)], [TARGET])
    network.eval()
    torch.testing.assert_close(ours, theirs["classification"] + theirs["bbox_regression"])


def test_what_is_exported_are_logits_and_deltas_of_each_anchor(network, picture):
    with torch.no_grad():
        logits, deltas = network(picture)
    count = sum(r * c * n for (r, c), n in zip(anchor_metadata(network)["grids"], (6, 6, 6, 6, 4, 4), strict=True))
    assert logits.shape == (1, count, 3)
    assert deltas.shape == (1, count, 4)
    assert network.anchors(picture).shape == (count, 4)


def test_focal_loss_learns_from_a_picture_without_a_box(network, picture):
    logits, deltas = (values.detach().requires_grad_() for values in network(picture))
    anchors = torch.rand(logits.shape[1], 4)
    unmatched = [torch.full((logits.shape[1],), -1)]
    loss = focal_loss(logits, deltas, anchors, [NONE], unmatched, network.ssd.box_coder)
    loss.backward()
    assert loss > 0
    assert logits.grad.abs().sum() > 0
    assert deltas.grad.abs().sum() == 0


def test_a_new_head_of_focal_loss_expects_background(network):
    expect_background(network.ssd)
    assert torch.softmax(network.ssd.head.classification_head.module_list[0].bias.view(-1, 3), -1)[:, 0].min() > 0.98


def test_frozen_stages_are_the_first_ones():
    with torch.device("meta"):
        layers = SingleShotDetector(Detector(frozen_stages=2)).ssd.backbone.features
    convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.weight.requires_grad for layer in convolutions] == [False] * 4 + [True] * 6


def test_a_size_without_a_last_feature_map_is_refused():
    with pytest.raises(ValidationError, match="larger size_px"):
        Detector(size_px=267)
    with pytest.raises(ValidationError, match=r"window_px is 200; give 268"):
        Config(sampling=Sampling(window_px=200))
    assert anchors_of(Detector(size_px=268))[1][-1] == [1, 1]
