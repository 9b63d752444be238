"""Limbs of phantom bones: hand, forearm, elbow, knee, lower leg, foot, upper arm; sizes in mm, proximal end first.

Sizes are an adult's, after Gray's Anatomy (ch. on the limbs) to the nearest millimetres, each drawn within some 10 %;
children are smaller and have growth plates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bones.phantom_bones import Bone, LongBone, ShortBone

SHORT_MM = 80.0


@dataclass(frozen=True)
class Limb:
    """Bones that hang on each other, and what of them is on the film: ``centre`` and ``height_mm`` of the view."""

    kind: str
    bones: tuple[Bone, ...]
    centre: tuple[float, float]
    height_mm: float


def draw_limb(rng: np.random.Generator, kind: str) -> Limb:
    """Draw a limb of that kind, of one person's size, bent and turned a little."""
    limb = LIMBS[kind](rng)
    child = rng.random() < 0.25
    size = float(rng.uniform(0.6, 0.85) if child else rng.uniform(0.9, 1.12))
    bones = tuple(_sized(bone, size, rng, child) for bone in limb.bones)
    centre = (limb.centre[0] * size, limb.centre[1] * size)
    return replace(limb, bones=bones, centre=centre, height_mm=limb.height_mm * size)


def _sized(bone: Bone, size: float, rng: np.random.Generator, child: bool) -> Bone:
    """Scale a bone, and give a child's long bones growth plates."""
    tissue = (bone.tissue_mm[0] * size, bone.tissue_mm[1] * size)
    if isinstance(bone, ShortBone):
        across = (bone.radii_mm[0] * size, bone.radii_mm[1] * size)
        return replace(bone, centre=_times(bone.centre, size), radii_mm=across, tissue_mm=tissue)
    plates = [0.9 * end * size * float(rng.uniform(0.8, 1.1)) if child else None for end in bone.ends_mm]
    if bone.length_mm < SHORT_MM:  # the bones of hand and foot have a plate at one end alone
        plates[1] = None
    return replace(
        bone, start=_times(bone.start, size), end=_times(bone.end, size), shaft_mm=bone.shaft_mm * size,
        ends_mm=(bone.ends_mm[0] * size, bone.ends_mm[1] * size), cortex_mm=bone.cortex_mm * size,
        bow_mm=bone.bow_mm * size, notches_mm=(bone.notches_mm[0] * size, bone.notches_mm[1] * size),
        physes_mm=(plates[0], plates[1]), tissue_mm=tissue,
    )  # fmt: skip


def _times(point: tuple[float, float], size: float) -> tuple[float, float]:
    return point[0] * size, point[1] * size


def _about(rng: np.random.Generator, mean: float, share: float = 0.08) -> float:
    return float(mean * np.clip(rng.normal(1, share), 1 - 2 * share, 1 + 2 * share))


def _long(
    rng: np.random.Generator, name: str, start: tuple[float, float], angle: float, length: float, shaft: float,
    ends: tuple[float, float], parent: str | None = None, *, tissue: tuple[float, float], cortex: float = 0.42,
    bow: float = 0.0, notches: tuple[float, float] = (0.0, 0.0), flat: float = 1.0,
) -> LongBone:  # fmt: skip
    """Draw a long bone from its start, ``angle`` rad from down towards x; ``cortex`` is a share of the shaft."""
    length, shaft = _about(rng, length, 0.04), _about(rng, shaft)
    end = (start[0] + length * float(np.sin(angle)), start[1] + length * float(np.cos(angle)))
    return LongBone(
        name, start, end, shaft, (_about(rng, ends[0]), _about(rng, ends[1])), shaft * _about(rng, cortex, 0.12),
        bow * float(rng.uniform(0.5, 1.4)), notches, flat, parent=parent, tissue_mm=tissue,
    )  # fmt: skip


def _short(
    rng: np.random.Generator, name: str, centre: tuple[float, float], radii: tuple[float, float],
    parent: str | None = None, *, tissue: float, angle: float | None = None, flat: float = 1.0, wave: float = 0.05,
) -> ShortBone:  # fmt: skip
    waves = tuple((float(rng.uniform(0.3, 1) * wave), float(rng.uniform(0, 2 * np.pi))) for _ in range(3))
    turn = float(rng.uniform(0, np.pi)) if angle is None else angle
    at = (centre[0] + float(rng.normal(0, 0.6)), centre[1] + float(rng.normal(0, 0.6)))
    return ShortBone(name, at, (_about(rng, radii[0]), _about(rng, radii[1])), turn, waves, flat, parent=parent,
                     tissue_mm=(tissue, tissue))  # fmt: skip


def _past(bone: LongBone, gap_mm: float) -> tuple[float, float]:
    """Return the point beyond a bone's end, for the next in the chain."""
    share = 1 + gap_mm / bone.length_mm
    x, y = (a + (b - a) * share for a, b in zip(bone.start, bone.end, strict=True))
    return x, y


def _rays(
    rng: np.random.Generator, prefix: str, first: tuple[float, float], parent: str,
    angles: tuple[float, ...], lengths: tuple[tuple[float, ...], ...], bases: tuple[tuple[float, float], ...],
    shafts: tuple[float, ...], tissue: float,
) -> list[Bone]:  # fmt: skip
    """Draw five rays of metacarpals or metatarsals and phalanges, spread like a fan."""
    bones: list[Bone] = []
    spread = float(rng.uniform(0.75, 1.35))
    for ray, (angle, chain, base) in enumerate(zip(angles, lengths, bases, strict=True), start=1):
        start, held, turn = (
            (first[0] + base[0], first[1] + base[1]),
            parent,
            angle * spread + float(rng.normal(0, 0.03)),
        )
        for link, length in enumerate(chain):
            shaft = shafts[link] * (1.15 if ray == 1 else 1.0)
            last = link == len(chain) - 1
            ends = (1.75 * shaft, (1.25 if last else 1.6) * shaft)
            name = f"{prefix}{ray}-{link + 1}"
            around = tissue * (1.2 if link == 0 else 0.72 if last else 0.85)
            bone = _long(rng, name, start, turn, length, shaft, ends, held, tissue=(around, around * 0.9),
                         cortex=0.45 if link < 2 else 0.35, notches=(0.0, 0.0 if last else 0.4))  # fmt: skip
            bones.append(bone)
            start, held, turn = _past(bone, 1.3), name, turn + float(rng.normal(0, 0.05))
    return bones


HAND_ANGLES = (0.75, 0.18, 0.02, -0.13, -0.29)
HAND_LENGTHS = ((44.0, 31.0, 22.0), (67.0, 41.0, 24.0, 17.0), (64.0, 45.0, 28.0, 18.0), (57.0, 42.0, 27.0, 18.0),
                (53.0, 33.0, 19.0, 16.0))  # fmt: skip
HAND_BASES = ((22.0, -8.0), (12.0, 0.0), (1.0, -1.0), (-9.0, 1.0), (-18.0, 3.0))
CARPALS = ((14.0, 11.0), (3.0, 8.0), (-8.0, 11.0), (-12.0, 9.5), (17.0, 25.0), (8.5, 23.0), (-2.0, 22.0), (-13.0, 22.0))
CARPAL_RADII = ((9.0, 6.0), (6.5, 6.5), (6.5, 5.5), (4.5, 4.5), (5.5, 5.0), (5.0, 4.5), (9.5, 6.5), (6.5, 7.0))


def _forearm_bones(rng: np.random.Generator, length: float, down: float = 0.0) -> list[Bone]:
    lean = float(rng.normal(0.03, 0.02)) + down
    radius = _long(rng, "radius", (9.0, 4.0), lean, length, 5.6, (9.0, 13.5), tissue=(38, 27), bow=4.0)
    ulna = _long(rng, "ulna", (-9.0, -6.0), lean - 0.01, length * 1.0, 5.2, (11.0, 7.5), tissue=(38, 25), bow=-2.0)
    return [radius, ulna]


def _wrist(rng: np.random.Generator, length: float) -> tuple[list[Bone], tuple[float, float]]:
    """Draw a forearm with carpals under it; return where these begin too."""
    bones = _forearm_bones(rng, length)
    end = bones[0].end if isinstance(bones[0], LongBone) else (0.0, 0.0)
    at = (end[0] - 5.0, end[1] + 1.5)
    for k, (place, radii) in enumerate(zip(CARPALS, CARPAL_RADII, strict=True)):
        bones.append(_short(rng, f"carpal{k + 1}", (at[0] + place[0] - 4, at[1] + place[1] - 2), radii, "radius",
                            tissue=21.0, flat=0.75))  # fmt: skip
    return bones, at


def _with_hand(rng: np.random.Generator, length: float) -> tuple[list[Bone], tuple[float, float]]:
    bones, at = _wrist(rng, length)
    bones += _rays(rng, "mc", (at[0], at[1] + 30.0), "radius", HAND_ANGLES, HAND_LENGTHS, HAND_BASES,
                   (4.3, 3.6, 3.2, 2.7), 13.0)  # fmt: skip
    return bones, at


def _hand(rng: np.random.Generator) -> Limb:
    bones, at = _with_hand(rng, 235.0)
    height = float(rng.uniform(215, 275))
    return Limb("hand", tuple(bones), (at[0] + 4, at[1] + 78 + float(rng.normal(0, 6))), height)


def _forearm(rng: np.random.Generator) -> Limb:
    bones, at = _with_hand(rng, 235.0)
    humerus = _long(rng, "humerus", (6.0, -305.0), 0.0, 300.0, 10.5, (22.0, 27.0), tissue=(50, 42), notches=(0, 5),
                    flat=0.7)  # fmt: skip
    bones.append(humerus)
    whole = rng.random() < 0.5
    y = at[1] - 100 if whole else at[1] - float(rng.uniform(10, 60))
    return Limb("forearm", tuple(bones), (at[0], y), float(rng.uniform(300, 360) if whole else rng.uniform(150, 220)))


def _elbow(rng: np.random.Generator) -> Limb:
    bend = float(rng.uniform(0.9, 1.7))
    bones = _forearm_bones(rng, 235.0, bend)
    humerus = _long(rng, "humerus", (-4.0, -300.0), 0.0, 302.0, 10.5, (22.0, 17.0), tissue=(50, 40), flat=0.9)
    return Limb("elbow", (humerus, *bones), (22.0, float(rng.normal(10, 8))), float(rng.uniform(150, 220)))


def _knee(rng: np.random.Generator) -> Limb:
    bones = [
        _long(rng, "femur", (0.0, -420.0), 0.0, 418.0, 14.5, (26.0, 37.0), tissue=(80, 58), notches=(0, 9), flat=0.85),
        *_lower_leg_bones(rng),
        _short(rng, "patella", (float(rng.normal(0, 3)), -22.0), (20.0, 19.0), tissue=55.0, flat=0.5, wave=0.03),
    ]
    return Limb("knee", tuple(bones), (0.0, float(rng.normal(5, 15))), float(rng.uniform(200, 300)))


def _lower_leg_bones(rng: np.random.Generator) -> list[Bone]:
    tibia = _long(rng, "tibia", (0.0, 5.0), float(rng.normal(0, 0.01)), 360.0, 12.5, (35.0, 22.0), "femur",
                  tissue=(54, 36), cortex=0.4, bow=2.0)  # fmt: skip
    fibula = _long(rng, "fibula", (-31.0, 22.0), 0.02, 362.0, 5.6, (9.5, 10.5), "femur", tissue=(24, 26), cortex=0.5,
                   bow=-3.0)  # fmt: skip
    return [tibia, fibula]


def _lower_leg(rng: np.random.Generator) -> Limb:
    bones = _lower_leg_bones(rng)
    femur = _long(
        rng, "femur", (0.0, -420.0), 0.0, 418.0, 14.5, (26.0, 37.0), tissue=(80, 58), notches=(0, 9), flat=0.8
    )
    end = bones[0].end if isinstance(bones[0], LongBone) else (0.0, 0.0)
    bones += [
        femur,
        _short(rng, "talus", (end[0] - 1, end[1] + 15.0), (21.0, 13.0), "tibia", tissue=32.0, angle=0.05, wave=0.03),
        _short(rng, "calcaneus", (end[0] - 4, end[1] + 42.0), (19.0, 24.0), "tibia", tissue=31.0, angle=0.1, wave=0.06),
    ]
    ankle = rng.random() < 0.5
    y = end[1] - float(rng.uniform(0, 30)) if ankle else end[1] - float(rng.uniform(130, 210))
    return Limb(
        "lower leg", tuple(bones), (end[0] - 8, y), float(rng.uniform(150, 210) if ankle else rng.uniform(300, 420))
    )


FOOT_ANGLES = (0.12, 0.04, -0.03, -0.11, -0.2)
FOOT_LENGTHS = ((60.0, 30.0, 22.0), (72.0, 27.0, 12.0, 9.0), (69.0, 25.0, 10.0, 8.0), (67.0, 23.0, 9.0, 8.0),
                (65.0, 21.0, 8.0, 8.0))  # fmt: skip
FOOT_BASES = ((18.0, 0.0), (5.0, -4.0), (-6.0, -1.0), (-16.0, 3.0), (-26.0, 8.0))
TARSALS = ((13.0, -7.0), (3.0, -10.0), (-7.0, -8.0), (-21.0, -7.0), (5.0, -26.0), (0.0, -47.0), (-15.0, -58.0))
TARSAL_RADII = ((9.0, 10.0), (6.0, 8.0), (6.5, 9.0), (9.0, 12.0), (15.0, 8.0), (16.0, 17.0), (15.0, 26.0))


def _foot(rng: np.random.Generator) -> Limb:
    bones: list[Bone] = [
        _short(rng, f"tarsal{k + 1}", place, radii, tissue=22.0, angle=0.0, flat=0.9)
        for k, (place, radii) in enumerate(zip(TARSALS, TARSAL_RADII, strict=True))
    ]
    bones += _rays(rng, "mt", (0.0, 0.0), "tarsal1", FOOT_ANGLES, FOOT_LENGTHS, FOOT_BASES, (4.2, 3.4, 3.0, 2.6), 15.0)
    return Limb("foot", tuple(bones), (0.0, float(rng.normal(35, 10))), float(rng.uniform(190, 260)))


def _upper_arm(rng: np.random.Generator) -> Limb:
    bones: list[Bone] = [
        _long(rng, "humerus", (0.0, -300.0), float(rng.normal(0, 0.03)), 300.0, 10.5, (23.0, 27.0), tissue=(55, 42),
              notches=(0, 5), flat=0.9),
        *_forearm_bones(rng, 235.0),
    ]  # fmt: skip
    return Limb("upper arm", tuple(bones), (0.0, float(rng.uniform(-140, -70))), float(rng.uniform(230, 300)))


LIMBS: dict[str, Callable[[np.random.Generator], Limb]] = {
    "hand": _hand, "forearm": _forearm, "elbow": _elbow, "knee": _knee, "lower leg": _lower_leg, "foot": _foot,
    "upper arm": _upper_arm,
}  # fmt: skip
