"""What rays meet on their way through neck and trunk, painted around a synthetic spine: AP and lateral."""

from __future__ import annotations

import numpy as np

from spine.phantom_anatomy import C1, C2, C3, C7, L1, L5, T1, T12, Points, Spine, Vertebra, smooth
from spine.phantom_canvas import Canvas, ellipse, xy

BONE = 0.34  # a lumbar body's middle, where the trunk's soft tissue is about 1


def paint(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint everything around a spine and the spine itself."""
    if spine.view == "ap":
        _trunk_ap(canvas, spine, rng)
        _pelvis_ap(canvas, spine, rng)
        _ribs_ap(canvas, spine, rng)
        for k, vertebra in enumerate(spine.vertebrae):
            _vertebra_ap(canvas, vertebra, k, rng)
        _skull_ap(canvas, spine, rng)
    else:
        _trunk_lateral(canvas, spine, rng)
        _pelvis_lateral(canvas, spine, rng)
        _ribs_lateral(canvas, spine, rng)
        for k, vertebra in enumerate(spine.vertebrae):
            _vertebra_lateral(canvas, vertebra, k, rng)
        _skull_lateral(canvas, spine, rng)


def _vertebra_ap(canvas: Canvas, one: Vertebra, k: int, rng: np.random.Generator) -> None:
    a, h = one.half_across_mm, one.half_height_mm
    bone = BONE * (0.55 + 0.45 * min(k / L5, 1)) * rng.uniform(0.85, 1.15)
    canvas.dome(one.outline_mm, 0.5 * bone)
    _shell(canvas, one.outline_mm, rng.uniform(0.12, 0.3) * bone, 0.04 * h + 0.8)
    # Arches and joints behind fill the gaps between bodies: what one sees is a column.
    canvas.fill(one.place(np.array([[-0.7, -1.3], [0.7, -1.3], [0.7, 1.3], [-0.7, 1.3]]) * [a, h]), 0.16 * bone, 1.5)
    if k <= C2:
        return
    for side in (-1, 1):
        pedicle = one.place(np.array([[side * 0.68 * a, -0.25 * h]]))[0]
        ring = ellipse(pedicle, (0.17 * a + 0.6, 0.3 * h), one.angle_deg)
        canvas.line(np.vstack([ring, ring[:1]]), 1.3, 0.2 * bone, 0.5)
        reach = 1.55 if k <= C7 else rng.uniform(1.65, 1.95)
        process = np.array([[0.8, -0.6], [reach, -0.5], [reach + 0.05, -0.15], [1.1, 0.1], [0.8, 0.45]]) * [side * a, h]
        canvas.fill(one.place(smooth(process)), 0.18 * bone, 1.0)
        facet = np.array([[0.45, 0.7], [0.75, 0.75], [0.7, 1.35], [0.4, 1.3]]) * [side * a, h]
        canvas.fill(one.place(smooth(facet)), 0.22 * bone, 0.8)
    drop = np.array([[-0.1, 0.2], [0.1, 0.2], [0.16, 1.15], [0.0, 1.35], [-0.16, 1.15]]) * [a, h]
    canvas.fill(one.place(smooth(drop)), 0.24 * bone, 0.6)


def _vertebra_lateral(canvas: Canvas, one: Vertebra, k: int, rng: np.random.Generator) -> None:
    """Paint a body, its arch, joints and spinous process; backwards is to the right."""
    a, h = one.half_across_mm, one.half_height_mm
    bone = BONE * (0.6 + 0.4 * min(k / L5, 1)) * rng.uniform(0.85, 1.15)
    canvas.fill(one.outline_mm, 0.5 * bone)
    _shell(canvas, one.outline_mm, 0.5 * bone, 0.05 * h + 0.8)
    if k == C1:
        back = one.place(np.array([[1.3 * a, 0.0]]))[0]
        ring = ellipse(back, (0.2 * a, 0.75 * h), one.angle_deg)
        canvas.line(np.vstack([ring, ring[:1]]), 1.2, 0.5 * bone)
        canvas.fill(one.place(ellipse(np.array([-0.45 * a, 0.0]), (0.12 * a, 0.7 * h))), 0.4 * bone)
        return
    if k <= C7:  # pillars lie behind bodies; spinous processes point down and back, those of C2 and C7 farthest
        pillar = np.array([[0.95, -0.75], [1.95, -0.35], [2.0, 0.75], [1.0, 0.5]]) * [a, h]
        canvas.fill(one.place(smooth(pillar)), 0.45 * bone, 0.6)
        reach = 4.4 if k == C7 else 3.7 if k == C2 else rng.uniform(2.7, 3.6)
        tip = np.array([[1.8, -0.2], [0.8 * reach, 0.3], [reach, 0.75], [0.95 * reach, 1.25], [1.9, 0.75]])
    elif k <= T12:
        canvas.fill(
            one.place(np.array([[0.9, -0.7], [1.5, -0.6], [1.5, 0.0], [0.9, -0.05]]) * [a, h]), 0.35 * bone, 0.8
        )
        tip = np.array([[1.4, -0.2], [2.2, 1.1], [2.35, 1.9], [2.0, 1.7], [1.4, 0.6]])
    else:
        canvas.fill(
            one.place(np.array([[0.9, -0.75], [1.6, -0.65], [1.6, 0.0], [0.9, -0.1]]) * [a, h]), 0.5 * bone, 0.7
        )
        joint = np.array([[1.4, -1.0], [1.75, -0.9], [1.85, 0.9], [1.65, 1.5], [1.4, 1.3]]) * [a, h]
        canvas.fill(one.place(smooth(joint)), 0.4 * bone, 0.7)
        tip = np.array([[1.7, -0.3], [2.7, -0.1], [2.75, 0.9], [2.2, 1.0], [1.7, 0.5]])
    process = one.place(smooth(tip * [a, h]))
    canvas.fill(process, 0.3 * bone, 0.7)
    _shell(canvas, process, 0.15 * bone, 0.9)


def _shell(canvas: Canvas, outline: Points, value: float, width_mm: float) -> None:
    """Paint the dense rim of a bone, within its outline."""
    middle = outline.mean(axis=0)
    inner = middle + (outline - middle) * (1 - width_mm / 2 / np.abs(outline - middle).max())
    canvas.line(np.vstack([inner, inner[:1]]), width_mm, value, 0.3)


def _at(spine: Spine, k: int) -> Points:
    return spine.vertebrae[k].centre_mm


def _trunk_ap(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint soft tissue, lungs, heart, belly and gas as seen from the front."""
    top, neck, chest, waist = _at(spine, C1), _at(spine, C7), _at(spine, T1 + 5), _at(spine, L1 + 1)
    half, low = rng.uniform(125, 175), spine.sacrum_mm + xy(0, 160)
    middle = np.array([chest[0], 0])
    sides = [(60, top[1] - 60), (58, neck[1] - 15), (half * 0.9, neck[1] + 22), (half, chest[1]),
             (half * 0.86, waist[1]), (half * 1.05, low[1])]  # fmt: skip
    right = np.array([[x, y] for x, y in sides])
    canvas.fill(np.vstack([right, right[::-1] * [-1, 1]]) + middle, 0.75, 5)
    dome = _at(spine, T1 + 9)[1]
    canvas.fill(np.array([[-half, dome], [half, dome], [half * 1.1, low[1]], [-half * 1.1, low[1]]]) + middle, 0.28, 10)
    air = rng.uniform(0.32, 0.5)
    for side in (-1, 1):
        apex, base = _at(spine, T1)[1] - 2, dome + (8 if side > 0 else -6)
        lung = np.array([[22, apex + 12], [45, apex], [75, apex + 30], [half * 0.8, chest[1]], [half * 0.84, base + 25],
                         [60, base - 10], [30 if side > 0 else 20, base - 5]]) * [side, 1]  # fmt: skip
        canvas.fill(smooth(lung) + middle, -air, 3)
    heart = np.array([chest[0] + 22, (chest[1] + dome) / 2 + 18])
    canvas.blob(heart, (62, 70), 0.3, -25)
    canvas.line(np.array([[chest[0], neck[1] - 40], [chest[0], chest[1] - 20]]), 15, -0.13, 2)  # the windpipe
    for _ in range(rng.integers(0, 26)):
        place = [waist[0] + rng.normal(0, 55), rng.uniform(waist[1], low[1] - 90)]
        canvas.blob(
            np.array(place), (rng.uniform(5, 22), rng.uniform(5, 14)), -rng.uniform(0.05, 0.2), rng.uniform(0, 180)
        )
    for side in (-1, 1):
        bone = np.array([[8, 30], [50, 18], [95, 2], [half, -12]]) * [side, 1] + xy(neck[0], _at(spine, T1)[1])
        canvas.line(bone, 11, 0.13, 1)
        canvas.blob(np.array([neck[0] + side * (half + 12), _at(spine, T1)[1] + 8]), (30, 34), 0.4)


def _ribs_ap(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint twelve pairs: behind they leave the spine sideways, in front they come back lower."""
    dense = rng.uniform(0.06, 0.12)
    for k in range(T1, T12 + 1):
        one, n = spine.vertebrae[k], k - T1
        reach = np.interp(n, [0, 3, 8, 10, 11], [52, 105, 122, 95, 62]) * rng.uniform(0.97, 1.03)
        for side in (-1, 1):
            t = np.linspace(0, 1, 24)[:, None]
            drop = np.interp(n, [0, 3, 11], [14, 30, 46])
            behind = np.hstack(
                [one.half_across_mm + reach * np.sin(t * np.pi / 2), -4 - 7 * np.sin(t * np.pi) + drop * t**2]
            )
            canvas.line(one.place(behind * [side, 1]), 6.0, dense, 0.6)
            canvas.line(one.place(behind * [side, 1] - xy(0, 2.6)), 1.2, 0.6 * dense, 0.4)
            if n < 10:
                s = np.linspace(0, 0.72, 20)[:, None]
                front = np.hstack(
                    [behind[-1:, :1] * np.cos(s * np.pi / 2), behind[-1:, 1:] + drop * 1.5 * np.sin(s * 1.7)]
                )
                canvas.line(one.place(front * [side, 1]), 7.0, 0.6 * dense, 0.7)


def _pelvis_ap(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint the sacrum with its openings, the wings beside it, and the hips."""
    top, wide = spine.sacrum_mm, rng.uniform(50, 58)
    half = np.array([[24, 0], [wide, 4], [0.8 * wide, 45], [0.25 * wide, 95]])
    canvas.fill(smooth(np.vstack([half, half[::-1] * [-1, 1]])) + top, 0.2, 0.8)
    for row in range(4):
        for side in (-1, 1):
            canvas.blob(top + xy(side * (22 - 2.5 * row), 22 + 18 * row), (6.5, 5), -0.12)
    for side in (-1, 1):
        wing = np.array([[wide - 8, 2], [75, -38], [112, -34], [134, 5], [124, 45], [96, 72], [70, 98], [52, 70]]) * [
            side,
            1,
        ]
        canvas.fill(smooth(wing) + top, 0.22, 1.0)
        _shell(canvas, smooth(wing) + top, 0.08, 3)
        canvas.fill(ellipse(top + xy(side * 96, 112), (24, 24)), 0.35, 0.8)
        canvas.line(np.array([[96, 112], [128, 140], [132, 240]]) * [side, 1] + top, 27, 0.3, 1)
        canvas.line(np.array([[70, 98], [42, 132], [6, 138]]) * [side, 1] + top, 15, 0.22, 1)


def _skull_ap(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint the back of the head and the jaw, which hide C1 and C2 unless the mouth is open."""
    top = _at(spine, C1)
    canvas.fill(ellipse(top + xy(0, -72), (76, 84)), 0.55, 1.5)
    base = ellipse(top + xy(0, -72), (72, 80))
    canvas.line(np.vstack([base, base[:1]]), 5, 0.25, 0.8)
    gape = rng.uniform(0, 26)
    jaw = np.array([[-55, -40], [-48, 10], [-25, 26 + gape], [25, 26 + gape], [48, 10], [55, -40], [40, -35], [34, 5],
                    [18, 14 + gape], [-18, 14 + gape], [-34, 5], [-40, -35]])  # fmt: skip
    canvas.fill(smooth(jaw) + top, 0.4, 0.8)


def _trunk_lateral(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint soft tissue, airway, lungs, shoulders and belly as seen from the side; the face is to the left."""
    centres, t1 = spine.centres_mm, _at(spine, T1)
    fat, depth = rng.uniform(0.85, 1.2), rng.uniform(0.9, 1.15)
    back = np.interp(np.arange(len(centres)), [C1, C3, C7, T1 + 5, T12, L1 + 2, L5], [62, 52, 55, 52, 55, 58, 62]) * fat
    front = (
        np.interp(np.arange(len(centres)), [C1, C3, C7, T1 + 1, T1 + 6, T12, L5], [58, 52, 62, 85, 150, 150, 150])
        * depth
    )
    low, high = spine.sacrum_mm + xy(0, 190), centres[0] - xy(0, 150)
    right = np.vstack([high + xy(back[0] + 8, 0), centres + np.stack([back, 0 * back], 1), low + xy(back[-1] + 45, 0)])
    left = np.vstack([high - xy(front[0] + 30, 0), centres - np.stack([front, 0 * front], 1), low - xy(front[-1], 0)])
    canvas.fill(np.vstack([right, left[::-1]]), 0.62, 3)
    throat = centres[C2 : C7 + 2] - xy(17, 0) + rng.normal(0, 1, (C7 + 2 - C2, 1)) * [1, 0]
    canvas.line(throat - xy(6, 0), 11, -0.24, 1.2)
    canvas.fill(
        smooth(np.array([[-28, 6], [-18, 8], [-16, 26], [-30, 22]])) + _at(spine, C3 + 1), 0.12, 0.8
    )  # hyoid, larynx
    canvas.blob(t1 + xy(-45, 45), (85, 62), rng.uniform(0.45, 1.0))  # both shoulders
    canvas.blob(t1 + xy(20, 75), (70, 60), rng.uniform(0.1, 0.35))
    dome = _at(spine, T12)[1] - rng.uniform(5, 35)
    lung = np.array([[-20, 12], [-70, 40], [-125, 100], [-130, dome - t1[1] - 45], [-60, dome - t1[1] - 55],
                     [-5, dome - t1[1] + 15], [38, dome - t1[1] + 30], [48, 120], [25, 25]])  # fmt: skip
    canvas.fill(smooth(lung) + t1, -rng.uniform(0.25, 0.38), 4)
    canvas.blob(np.array([t1[0] - 75, dome - 45]), (70, 62), 0.22)
    belly = np.array([[-150 * depth, dome + 25], [70, dome + 25], [95, low[1]], [-160 * depth, low[1]]])
    canvas.fill(belly + xy(t1[0], 0), rng.uniform(0.22, 0.45), 12)
    for _ in range(rng.integers(0, 14)):
        place = _at(spine, L1 + 2) + xy(rng.uniform(-130, -35), rng.normal(10, 50))
        canvas.blob(place, (rng.uniform(8, 26), rng.uniform(6, 16)), -rng.uniform(0.04, 0.14), rng.uniform(0, 180))


def _ribs_lateral(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint ribs that go back from the spine, then forward and down, those of both sides a little apart."""
    dense = rng.uniform(0.03, 0.07)
    for k in range(T1, T12 + 1):
        one, n = spine.vertebrae[k], k - T1
        length = np.interp(n, [0, 3, 9, 11], [60, 130, 150, 70])
        for side in (-1, 1):
            t = np.linspace(0, 1, 24)[:, None]
            back = np.where(t < 0.63, 26 * np.sin(np.minimum(5 * t, np.pi)), 0)
            bow = np.hstack([0.9 * one.half_across_mm + back - length * t**1.4, -3 + 3 * side + 62 * t])
            canvas.line(one.centre_mm + bow, 5.5, dense, 0.6)


def _pelvis_lateral(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint the sacrum's five segments on their curve, the wings over them, and the hips."""
    place, angle, tall, deep = spine.sacrum_mm, spine.sacrum_angle_deg, 27.0, 33.0
    for _ in range(5):
        down = np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle))])
        corners = np.array([[-0.5, 0.02], [0.5, 0.02], [0.42, 0.96], [-0.42, 0.96]]) * [deep, tall]
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        outline = smooth(corners @ np.array([[cos, sin], [-sin, cos]]) + place)
        canvas.fill(outline, 0.22, 0.5)
        _shell(canvas, outline, 0.12, 1.6)
        place, angle, tall, deep = place + down * tall, angle + 9.0, tall * 0.88, deep * 0.8
    top = spine.sacrum_mm
    for shift in rng.normal(0, 5, (2, 2)):
        wing = np.array([[28, -28], [-15, -42], [-58, -22], [-75, 12], [-48, 60], [-20, 92], [30, 70], [45, 20]])
        canvas.fill(smooth(wing) + top + shift, 0.14, 1.2)
        _shell(canvas, smooth(wing) + top + shift, 0.08, 2.5)
        canvas.fill(ellipse(top + xy(-38, 118) + shift, (24, 24)), 0.3, 1.0)


def _skull_lateral(canvas: Canvas, spine: Spine, rng: np.random.Generator) -> None:
    """Paint the head: vault, dense base over C1, jaw and teeth in front."""
    top = _at(spine, C1)
    canvas.fill(ellipse(top + xy(-80, -30), (34, 40)), 0.25, 3)  # the face
    vault = ellipse(top + xy(5, -88), (98, 84))
    canvas.fill(vault, 0.3, 1.2)
    canvas.line(np.vstack([vault, vault[:1]]), 6, 0.3, 0.8)
    base = np.array([[-45, -38], [0, -22], [30, -18], [70, -32], [72, -46], [20, -38], [-40, -58]])
    canvas.fill(smooth(base) + top, 0.4, 1.5)
    turn, drop = rng.normal(0, 6), rng.uniform(-4, 10)
    jaw = np.array(
        [[-32, -40], [-22, -36], [-28, 6], [-42, 24], [-88, 38], [-108, 34], [-104, 14], [-58, 8], [-40, -6]]
    )
    canvas.fill(smooth(jaw) + top + xy(turn, drop), 0.36, 0.8)
    for tooth in range(6):
        canvas.fill(ellipse(top + xy(-66 - 6 * tooth + turn, 4 + tooth + drop), (3.4, 8)), 0.2, 0.8)
        canvas.fill(ellipse(top + xy(-66 - 6 * tooth + turn, -9 + tooth + drop), (3.4, 8)), 0.2, 0.8)
