"""Splits of pictures in which patients, export families and near-duplicates never cross (law 6).

Fingerprint every picture, group them, split the groups; or hold a published split to the groups. Names are the
pictures' paths within the data set. Nothing depends on the order in which they are given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt64
from PIL import Image
from scipy.fft import dctn

from shared.errors import SetupError
from shared.io.tables import write_json
from shared.types import PictureArray

PARTS = ("training", "validation", "test")
# Roboflow names each version of a picture NAME.rf.HASH.jpg; augmented versions share NAME.
FAMILY = re.compile(r"(?P<name>.+)\.rf\.[0-9a-f]{16,}\.\w+")

SMALL_PX, HASH_SIDE = 32, 8
# Chosen on 414 bone X-rays by looking at the pairs: of 85,491 pairs 18 pass, all of them the same film or the same
# limb of one patient; the distance alone lets 22 more pass that only look alike.
MAX_DISTANCE_BITS = 10
MIN_CORRELATION = 0.94
ORIENTATIONS = 8  # upright, mirrored, and both turned: a flipped copy of a training picture is that picture


class Fingerprint(NamedTuple):
    """What near-duplicates share: a 64-bit perceptual hash in each of 8 orientations, and a thumbnail.

    The thumbnail has mean 0 and norm 1, so that the product of two is their correlation.
    """

    hashes: UInt64[np.ndarray, " orientation"]
    thumbnail: Float32[np.ndarray, "y x"]


def fingerprint(picture: PictureArray) -> Fingerprint:
    """Return the fingerprint of a picture; a blank one resembles none.

    The hash is pHash (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010): of the cosine
    transform of the picture at 32 x 32, 8 x 8 coefficients past the lowest. It keeps their signs, where pHash compares
    them with their median, for then a mirrored picture has the same bits with every other row or column turned over.
    """
    small = Image.fromarray(np.ascontiguousarray(picture, np.float32)).resize(
        (SMALL_PX, SMALL_PX), Image.Resampling.BOX
    )
    values = np.asarray(small, np.float64)
    cosines = dctn(values, norm="ortho")[1 : HASH_SIDE + 1, 1 : HASH_SIDE + 1]
    bits = np.stack([(turned > 0).ravel() for turned in _oriented_cosines(cosines)])
    values = values - values.mean()
    norm = np.linalg.norm(values)
    thumbnail = (values / norm if norm > 1e-6 else np.zeros_like(values)).astype(np.float32)
    return Fingerprint(np.packbits(bits, axis=1).view(np.uint64).ravel(), thumbnail)


def near_duplicates(
    fingerprints: Sequence[Fingerprint],
    max_distance_bits: int = MAX_DISTANCE_BITS,
    min_correlation: float = MIN_CORRELATION,
) -> list[tuple[int, int]]:
    """Return pairs that look the same in some orientation: few bits apart, and their thumbnails agree.

    Every pair is compared; ten thousand pictures take about a second.
    """
    if not fingerprints:
        return []
    hashes = np.stack([one.hashes for one in fingerprints])
    pairs = []
    for i in range(len(hashes) - 1):
        distances = np.bitwise_count(hashes[i, 0] ^ hashes[i + 1 :])
        for below, turn in np.argwhere(distances <= max_distance_bits):
            j = i + 1 + int(below)
            if _correlation(fingerprints[i], fingerprints[j], int(turn)) >= min_correlation:
                pairs.append((i, j))
    return sorted(set(pairs))


def group_pictures(
    names: Sequence[str],
    *,
    patients: Mapping[str, str] | None = None,
    fingerprints: Mapping[str, Fingerprint] | None = None,
    families: bool = True,
) -> dict[str, str]:
    """Return each picture's group, called by the first name in it.

    One group are pictures of one patient, near-duplicates, and, with ``families``, Roboflow's versions of one name.
    What is joined by a chain of these is one group. Exports merged from several sources use a name for several
    pictures; families then only make groups larger than they need be.

    Args:
        names: of the pictures, each once.
        patients: whose picture each is, where known.
        fingerprints: of the pictures that are to be compared.
        families: whether ``NAME.rf.HASH.jpg`` belongs with others of that NAME.

    Raises:
        ValueError: a name given twice.
    """
    ordered = sorted(names)
    if len(set(ordered)) != len(ordered):
        raise ValueError("a picture is named twice")
    above = {name: name for name in ordered}
    known: dict[tuple[str, str], str] = {}
    for name in ordered:
        keys = [("patient", patients[name])] if patients and name in patients else []
        if families and (family := family_of(name)):
            keys.append(("family", family))
        for key in keys:
            _join(above, known.setdefault(key, name), name)
    if fingerprints:
        seen = [name for name in ordered if name in fingerprints]
        for i, j in near_duplicates([fingerprints[name] for name in seen]):
            _join(above, seen[i], seen[j])
    return {name: _top(above, name) for name in ordered}


def family_of(name: str) -> str | None:
    """Return the name that Roboflow's versions of one picture share; None if the name is not of that form."""
    found = FAMILY.fullmatch(PurePosixPath(name).name)
    return found["name"] if found else None


def split_groups(
    groups: Mapping[str, str], fractions: Mapping[str, float], *, with_box: Collection[str] = (), seed: int = 0
) -> dict[str, list[str]]:
    """Split pictures into parts of about these fractions; no group is in two of them.

    Pictures with and without a box are spread alike as far as groups allow: the largest groups go first, each to the
    part that lacks most of what it holds; groups of one size in an order drawn from the seed.

    Args:
        groups: each picture's group.
        fractions: of the pictures, by part; they add up to 1.
        with_box: the pictures that have one.
        seed: random seed.

    Raises:
        ValueError: the fractions do not add up to 1, or one is negative.
    """
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions {dict(fractions)} must be at least 0 and add up to 1")
    boxed = set(with_box)
    members = _members(groups)
    names = sorted(members)
    counts = {name: np.array([sum((p in boxed) == kind for p in members[name]) for kind in (True, False)], float)
              for name in names}  # fmt: skip
    total: Float64[np.ndarray, " kind"] = np.sum([counts[name] for name in names], axis=0) if names else np.zeros(2)
    lacking = {part: share * total for part, share in fractions.items()}
    parts: dict[str, list[str]] = {part: [] for part in fractions}
    drawn = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    for name in sorted(drawn, key=lambda name: -len(members[name])):
        weights = counts[name] / np.maximum(total, 1)
        part = max(parts, key=lambda part: float(weights @ lacking[part]))
        lacking[part] = lacking[part] - counts[name]
        parts[part] += members[name]
    return {part: sorted(held) for part, held in parts.items()}


def crossing(parts: Mapping[str, Sequence[str]], groups: Mapping[str, str]) -> list[list[str]]:
    """Return the groups that are in more than one part, each as its sorted pictures."""
    sides: dict[str, set[str]] = {}
    for part, names in parts.items():
        for name in names:
            sides.setdefault(groups.get(name, name), set()).add(part)
    held = {name for names in parts.values() for name in names}
    return [
        [name for name in names if name in held]
        for group, names in sorted(_members(groups).items())
        if len(sides.get(group, ())) > 1
    ]


def regrouped(
    parts: Mapping[str, Sequence[str]], groups: Mapping[str, str], *, first: Sequence[str] = ("test", "validation")
) -> dict[str, list[str]]:
    """Return a split in which every group that crossed is whole in the first part of ``first`` that held any of it.

    So published pictures for testing stay such, and their copies leave the training part; a group that crosses none
    of ``first`` goes to the part that comes first in ``parts``.
    """
    order = [*(part for part in first if part in parts), *(part for part in parts if part not in first)]
    side: dict[str, str] = {}
    for part in order:
        for name in parts[part]:
            side.setdefault(groups.get(name, name), part)
    result: dict[str, list[str]] = {part: [] for part in parts}
    for name in sorted({name for names in parts.values() for name in names}):
        result[side[groups.get(name, name)]].append(name)
    return result


def write_split(parts: Mapping[str, Sequence[str]], path: Path | str) -> None:
    """Write a split file: an object with the pictures' names under training, validation and test.

    Raises:
        SetupError: the file cannot be written.
    """
    write_json({part: sorted(names) for part, names in parts.items()}, path)


def read_split(path: Path | str, groups: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """Read a split file that ``write_split`` wrote, or one's own of that form.

    Raises:
        SetupError: it cannot be read, is of another form, or a picture or one of ``groups`` is in two parts.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror or error}); check the name") from error
    except ValueError as error:
        raise SetupError(f"{path}: is no JSON ({error}); mend it") from error
    lists = isinstance(content, dict) and set(content) <= set(PARTS)
    if not lists or not all(isinstance(v, list) and all(isinstance(n, str) for n in v) for v in content.values()):
        raise SetupError(f"{path}: is no split; write {{'training': [names], 'validation': [names], 'test': [names]}}")
    parts: dict[str, list[str]] = {part: list(dict.fromkeys(content.get(part, []))) for part in PARTS}
    crossed = crossing(parts, groups or {}) + crossing(parts, {name: name for held in parts.values() for name in held})
    if crossed:
        shown = "; ".join(" and ".join(names[:3]) for names in crossed[:3])
        raise SetupError(
            f"{path}: {len(crossed)} groups of one patient or picture are in two parts, such as {shown}; "
            "keep each in one"
        )
    return parts


def _oriented_cosines(cosines: Float64[np.ndarray, "v u"]) -> list[Float64[np.ndarray, "v u"]]:
    """Give a picture's cosine coefficients as if it had been turned: a mirror changes the sign of every odd one."""
    odd = np.where(np.arange(1, HASH_SIDE + 1) % 2, -1.0, 1.0)
    both = (np.ones(HASH_SIDE), odd)
    return [turned * down[:, None] * across for turned in (cosines, cosines.T) for down in both for across in both]


def _correlation(one: Fingerprint, other: Fingerprint, turn: int) -> float:
    """Correlate two thumbnails, the other turned as the orientation of its hash of that number."""
    turned = other.thumbnail.T if turn & 4 else other.thumbnail
    turned = turned[:: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]
    return float((one.thumbnail * turned).sum())


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for name in sorted(groups):
        members.setdefault(groups[name], []).append(name)
    return members


def _join(above: dict[str, str], one: str, other: str) -> None:
    """Make two groups one, called by the first of their names (union-find)."""
    low, high = sorted((_top(above, one), _top(above, other)))
    above[high] = low


def _top(above: dict[str, str], name: str) -> str:
    while above[name] != name:
        above[name] = above[above[name]]  # the way gets shorter
        name = above[name]
    return name
