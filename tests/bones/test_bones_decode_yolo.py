"""YOLO's predictions become the boxes that ultralytics itself makes of them."""

import numpy as np
import pytest
import torch

from bones.decode import YOLO_SELECTION, decode_yolo
from bones.yolo import LEAST_SCORE, MOST, NMS_IOU, offline_ultralytics

SIZE_PX = 320


def predictions(seed, labels):
    """Clusters of cells that mean much the same box, as a network gives them, and many that mean nothing."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform(0, SIZE_PX, (12, 2))
    centres = np.concatenate(
        [np.repeat(middles, 20, 0) + rng.normal(0, 4, (240, 2)), rng.uniform(0, SIZE_PX, (400, 2))]
    )
    sides = np.exp(rng.normal(3.5, 0.4, (640, 2)))
    scores = np.concatenate([rng.uniform(0, 0.9, (240, labels)), rng.uniform(0, 0.02, (400, labels))])
    return np.concatenate([centres, sides, scores], axis=1).T.astype(np.float32)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_those_of_ultralytics(seed, labels):
    offline_ultralytics()
    from ultralytics.utils.nms import non_max_suppression

    assert (YOLO_SELECTION.score_threshold, YOLO_SELECTION.nms_iou, YOLO_SELECTION.max_detections) == (
        LEAST_SCORE, NMS_IOU, MOST,
    )  # fmt: skip
    given = predictions(seed, labels)
    wanted = non_max_suppression(torch.from_numpy(given)[None], LEAST_SCORE, NMS_IOU, max_det=MOST)[0].numpy()
    found = decode_yolo(given, 0.0, SIZE_PX, YOLO_SELECTION)
    assert len(found.scores) == len(wanted) > 50
    np.testing.assert_allclose(found.scores, wanted[:, 4], atol=1e-5)
    np.testing.assert_array_equal(found.labels, wanted[:, 5] + 1)
    np.testing.assert_allclose(found.boxes_px, wanted[:, :4].clip(0, SIZE_PX), atol=0.1)
    some = decode_yolo(given, 0.5, SIZE_PX, YOLO_SELECTION)
    np.testing.assert_array_equal(some.boxes_px, found.boxes_px[found.scores >= 0.5])
