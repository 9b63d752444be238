"""Default boxes, decoding, NMS and outlines against torchvision's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.vgg import vgg16
from torchvision.ops import nms as torchvision_nms

from bones.decode import Anchors, Selection, SsdDecoder, default_boxes, outlines
from shared.boxes import nms

RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
STEPS = [8, 16, 32, 64, 100, 300]
GRIDS = {
    300: (38, 19, 10, 5, 3, 1),
    320: (40, 20, 10, 5, 3, 1),
    512: (64, 32, 16, 8, 6, 4),
    640: (80, 40, 20, 10, 8, 6),
}


class Maps(nn.Module):
    """Feature maps of the sizes that the VGG trunk has, in place of the trunk; few channels, to be quick."""

    out_channels = [4] * 6

    def __init__(self, size_px, seed):
        super().__init__()
        self.size_px, self.generator = size_px, torch.Generator().manual_seed(seed)

    def forward(self, image):
        grids = GRIDS[self.size_px]
        return {str(k): torch.randn(1, 4, n, n, generator=self.generator) for k, n in enumerate(grids)}


def torchvision_ssd(size_px, seed, labels=2, steps=None, scale=1.0, **settings):
    torch.manual_seed(seed)
    generator = DefaultBoxGenerator(RATIOS, scales=SCALES, steps=steps)
    network = SSD(Maps(size_px, seed), generator, (size_px, size_px), labels, **settings).eval()
    with torch.no_grad():
        for parameter in network.head.regression_head.parameters():
            parameter.mul_(scale)
        for convolution in network.head.classification_head.module_list:
            convolution.bias.view(-1, labels)[:, 0] = 3.0  # most places are background, as in life
    return network


def both(size_px, seed, labels=2, steps=None, scale=1.0, threshold=0.0, **settings):
    """What torchvision and what we make of the same logits and deltas."""
    network = torchvision_ssd(size_px, seed, labels, steps, scale, **settings)
    kept = {}
    network.head.register_forward_hook(lambda module, given, result: kept.update(result))
    with torch.no_grad():
        theirs = network([torch.zeros(3, size_px, size_px)])[0]
    anchors = Anchors(
        grids=tuple((n, n) for n in GRIDS[size_px]),
        aspect_ratios=tuple(map(tuple, RATIOS)),
        scales=tuple(SCALES),
        steps_px=None if steps is None else tuple(steps),
    )
    names = {
        "score_thresh": "score_threshold",
        "topk_candidates": "candidates",
        "nms_thresh": "nms_iou",
        "detections_per_img": "max_detections",
    }
    decoder = SsdDecoder.of(anchors, size_px, Selection(**{names[key]: value for key, value in settings.items()}))
    ours = decoder(kept["cls_logits"][0].numpy(), kept["bbox_regression"][0].numpy(), threshold)
    return ours, {name: value.numpy() for name, value in theirs.items()}


def assert_same(ours, theirs):
    assert len(ours.scores) == len(theirs["scores"])
    np.testing.assert_allclose(ours.scores, theirs["scores"], atol=1e-5)
    np.testing.assert_array_equal(ours.labels, theirs["labels"])
    np.testing.assert_allclose(ours.boxes_px, theirs["boxes"], atol=0.1)


@pytest.mark.parametrize("size_px", GRIDS)
@pytest.mark.parametrize("labels", [2, 4])
def test_boxes_are_torchvisions(size_px, labels):
    ours, theirs = both(size_px, seed=size_px, labels=labels)
    assert len(theirs["scores"]) > 50
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {"score_thresh": 0.3},
        {"topk_candidates": 30},
        {"nms_thresh": 0.2},
        {"detections_per_img": 5},
        {"score_thresh": 0.9999},
        {"scale": 6.0},  # boxes far beyond the picture and its largest growth
        {"steps": STEPS},
    ],
)
def test_settings_mean_what_they_mean_in_torchvision(settings):
    assert_same(*both(300, seed=3, **settings))


def test_a_threshold_changes_no_box_that_reaches_it():
    every, _ = both(300, seed=5, detections_per_img=10_000)
    threshold = float(every.scores[20])
    some, _ = both(300, seed=5, threshold=threshold, detections_per_img=10_000)
    passed = every.scores >= threshold
    assert 0 < passed.sum() < len(every.scores)
    for whole, part in zip(every[:3], some[:3], strict=True):
        np.testing.assert_array_equal(whole[passed], part)


@pytest.mark.parametrize(("size_px", "steps"), [(300, None), (300, STEPS), (512, None), (640, None)])
def test_default_boxes_are_torchvisions(size_px, steps):
    maps = [torch.zeros(1, 1, n, n) for n in GRIDS[size_px]]
    pictures = ImageList(torch.zeros(1, 3, size_px, size_px), [(size_px, size_px)])
    theirs = DefaultBoxGenerator(RATIOS, scales=SCALES, steps=steps)(pictures, maps)[0].numpy()
    anchors = Anchors(grids=[(n, n) for n in GRIDS[size_px]], aspect_ratios=RATIOS, scales=SCALES, steps_px=steps)
    ours = default_boxes(anchors, size_px)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    if steps is None:  # torchvision's own steps are for 300 only
        centres = (ours[:, :2] + ours[:, 2:]) / 2
        assert (centres > 0).all()
        assert (centres < size_px).all()


def test_the_grids_are_those_of_the_trunk():
    trunk = SSDFeatureExtractorVGG(vgg16(weights=None).features, False).to("meta")
    for size_px, grids in GRIDS.items():
        maps = trunk(torch.zeros(1, 3, size_px, size_px, device="meta"))
        assert [tuple(found.shape[-2:]) for found in maps.values()] == [(n, n) for n in grids]


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.floats(0.05, 0.95))
def test_nms_is_torchvisions(seed, count, iou):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (count, 4)).astype(np.float32)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    scores = torch.linspace(1, 0, count)
    np.testing.assert_array_equal(nms(boxes, iou), torchvision_nms(torch.from_numpy(boxes), scores, iou).numpy())


def test_outlines_enclose_torchvisions_masks():
    y, x = np.mgrid[:28, :28]
    disc = 1 / (1 + np.exp(np.hypot(y - 13.5, x - 13.5) - 9)).astype(np.float32)
    full = np.ones((28, 28), np.float32)
    boxes = np.array([[20, 30, 160, 120], [5, 6, 90, 160]], np.float32)
    masks = np.stack([disc, full]).astype(np.float32)
    pasted = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), (180, 180)).numpy()
    for outline, mask in zip(outlines(masks, boxes), pasted[:, 0] > 0.5, strict=True):
        area = area_of(outline)
        assert area == pytest.approx(mask.sum(), rel=0.03)
        ys, xs = np.nonzero(mask)
        np.testing.assert_allclose(outline.min(0), [xs.min(), ys.min()], atol=2)
        np.testing.assert_allclose(outline.max(0), [xs.max() + 1, ys.max() + 1], atol=2)
        assert len(outline) < 60


def area_of(outline):
    x, y = outline.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_of_several_pieces_the_largest_is_drawn_and_nothing_has_no_corners():
    mask = np.zeros((28, 28), np.float32)
    mask[2:4, 2:4] = 1
    mask[10:20, 8:24] = 1
    found, none = outlines(np.stack([mask, mask * 0.4]), np.array([[0, 0, 28, 28]] * 2, np.float32))
    np.testing.assert_allclose(found.min(0), [8, 10], atol=0.51)
    np.testing.assert_allclose(found.max(0), [24, 20], atol=0.51)
    assert none.shape == (0, 2)
