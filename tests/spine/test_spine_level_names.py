"""Class names as people write them, and the level each means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spine.config import LEVELS
from spine.level_names import level_of

FORMS = [
    "{r}{n}",
    "{r}-{n}",
    "{r} {n}",
    "{r}_{n}",
    "{r}0{n}",
    "vertebra {r}{n}",
    "{r}{n}_vertebra",
    "vertebrae_{r}{n}",
    " {r}{n} ",
]


@given(st.sampled_from(LEVELS), st.sampled_from(FORMS), st.booleans(), st.booleans())
def test_every_level_in_every_form(level, form, lower, th):
    region = "Th" if th and level[0] == "T" else level[0]
    name = form.format(r=region, n=level[1:])
    assert level_of(name.lower() if lower else name.upper()) == level


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("\u0421" + "3", "C3"),  # Cyrillic es
        ("\u0422" + "12", "T12"),  # Cyrillic te
        ("\u0422" + "h-7", "T7"),
        ("D12", "T12"),
        ("lumbar 4", "L4"),
        ("Thoracic-01", "T1"),
        ("T12 vertebral body", "T12"),
        ("\uff2c" + "5", "L5"),  # full width
    ],
)
def test_aliases(name, level):
    assert level_of(name) == level


@pytest.mark.parametrize("name", ["S1", "sacrum", "L6", "T13", "Background", "disc", "S"])
def test_what_is_known_to_be_no_level_is_none(name):
    assert level_of(name) is None


@pytest.mark.parametrize("name", ["C8", "L7", "T0", "vertebra", "12", "LL1", "tibia", "C", ""])
def test_what_nobody_knows_is_said(name):
    with pytest.raises(ValueError, match="no level"):
        level_of(name)


def test_own_names_go_first_and_may_be_ignored():
    assert level_of("Lendenwirbel 1", {"lendenwirbel 1": "L1"}) == "L1"
    assert level_of("L1", {"L1": "ignore"}) is None
    with pytest.raises(ValueError, match="no level"):
        level_of("x", {"x": "L9"})
