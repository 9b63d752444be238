import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.boxes import box_areas, iou_matrix, nms

CORNERS = arrays(np.float32, st.tuples(st.integers(0, 6), st.just(4)), elements=st.integers(0, 20))


def boxes_of(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)


@given(CORNERS, CORNERS)
def test_iou_is_that_of_painted_pixels(one: np.ndarray, other: np.ndarray) -> None:
    def painted(box: np.ndarray) -> np.ndarray:
        mask = np.zeros((21, 21), bool)
        x1, y1, x2, y2 = box.astype(int)
        mask[y1:y2, x1:x2] = True
        return mask

    one, other = boxes_of(one), boxes_of(other)
    found = iou_matrix(one, other)
    assert found.shape == (len(one), len(other))
    for i, a in enumerate(map(painted, one)):
        assert box_areas(one)[i] == a.sum()
        for j, b in enumerate(map(painted, other)):
            either = (a | b).sum()
            assert found[i, j] == pytest.approx((a & b).sum() / either if either else 0)
    np.testing.assert_allclose(iou_matrix(other, one), found.T)


def test_an_upside_down_box_has_no_area() -> None:
    assert box_areas(np.array([[5.0, 5.0, 2.0, 9.0]])) == 0
    assert iou_matrix(np.array([[5.0, 5.0, 2.0, 9.0]]), np.array([[0.0, 0.0, 9.0, 9.0]])) == 0


@given(CORNERS, st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.55, 1.0]))
def test_suppression_keeps_what_no_better_one_covers(corners: np.ndarray, seed: int, iou: float) -> None:
    boxes = boxes_of(corners)[np.random.default_rng(seed).permutation(len(corners))]
    kept: list[int] = []
    for index in range(len(boxes)):  # by the definition: one after another, best first
        if all(iou_matrix(boxes[index : index + 1], boxes[k : k + 1])[0, 0] <= iou for k in kept):
            kept.append(index)
    assert nms(boxes, iou).tolist() == kept
    assert nms(boxes, iou, limit=2).tolist() == kept[:2]


def test_suppression_is_torchvisions() -> None:
    import torch
    from torchvision.ops import nms as torchvision_nms

    rng = np.random.default_rng(0)
    low = rng.uniform(0, 300, (800, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 60, (800, 2))], axis=1).astype(np.float32)
    for iou in (0.2, 0.55, 0.9):
        falling = torch.arange(800, 0, -1, dtype=torch.float32)
        assert nms(boxes, iou).tolist() == torchvision_nms(torch.from_numpy(boxes), falling, iou).tolist()
