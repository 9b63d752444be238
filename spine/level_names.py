"""What data sets call vertebrae, and which of the 24 levels is meant."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from spine.config import LEVELS

IGNORED = "ignore"
"""What an alias says of a class that is no vertebra to learn."""

# Cyrillic es, te, de, el and en, typed for C, T, D, L and H; lower case, for names are folded first.
_LOOKALIKES = str.maketrans({"\u0441": "c", "\u0442": "t", "\u0434": "d", "\u043b": "l", "\u043d": "h"})
_REGIONS = {
    "c": "C", "cervical": "C", "cerv": "C",
    "t": "T", "th": "T", "d": "T", "thoracic": "T", "thor": "T", "dorsal": "T",  # D12 is T12 in French and Spanish
    "l": "L", "lumbar": "L", "lum": "L",
}  # fmt: skip
_FILLERS = {"vertebra", "vertebrae", "vertebral", "body", "bodies", "level", "spine", "vert", "label"}
# Found beside vertebrae in spine data sets, and no class here. T13 and L6 are vertebrae, but none of the 24.
_OTHERS = re.compile(
    r"s\d?|s[1-5]|sacrum|sacral|coccyx|coccygeal|background|disc|discs|disk|disks|rib|ribs|pelvis|hip|hips|t13|l6|"
    r"femur|femoralhead|femoralheads|implant|implants|screw|screws"
)
_LEVEL = re.compile(r"(?P<region>[a-z]+)0*(?P<number>\d+)")


def level_of(name: str, aliases: Mapping[str, str] | None = None) -> str | None:
    """Return the level that a class name means, such as ``T12`` of ``Th-12``, ``D12`` or ``T12 vertebra``.

    Args:
        name: the class as a data set calls it.
        aliases: names of one's own, each with its level, or ``ignore``; they go first.

    Returns:
        One of ``LEVELS``; None for what is known to be something else, such as the sacrum, a disc, T13 or L6.

    Raises:
        ValueError: nobody knows what is meant.
    """
    given = {_plain(key): value for key, value in (aliases or {}).items()}
    plain = _plain(name)
    if plain in given:
        meant = given[plain]
        if meant == IGNORED:
            return None
        if meant not in LEVELS:
            raise ValueError(f"{meant!r}, given for {name!r}, is no level; give C1 to L5, or {IGNORED}")
        return meant
    words = [word for word in re.split(r"[\s_\-./:()]+", plain) if word and word not in _FILLERS]
    joined = "".join(words)
    found = _LEVEL.fullmatch(joined)
    if found and found["region"] in _REGIONS:
        level = f"{_REGIONS[found['region']]}{int(found['number'])}"
        if level in LEVELS:
            return level
    if _OTHERS.fullmatch(joined):
        return None
    raise ValueError(f"{name!r} is no level that is known")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold().translate(_LOOKALIKES)
