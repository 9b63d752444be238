"""What a spine model's file says of itself: how its candidates are to be taken, and how far its names are trusted.

`spine.tuning` looks it up on held-out films, `spine.export` writes it, `spine.predict` goes by it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt, ValidationError

from shared.config import Config
from shared.errors import SetupError
from shared.runtime import read_metadata
from spine.config import LEVELS
from spine.order_model import ClassScores

METADATA_VERSION = 1


class OperatingPoint(Config):
    """What counts as a candidate: its best score, and how much two boxes may share."""

    confidence: float = Field(gt=0, lt=1)
    iou: float = Field(gt=0, le=1)

    def but(self, confidence: float | None = None, iou: float | None = None) -> OperatingPoint:
        """Return the point with what is given in place of its own; itself where nothing is.

        Raises:
            ValueError: out of range.
        """
        if confidence is None and iou is None:
            return self
        return OperatingPoint(
            confidence=self.confidence if confidence is None else confidence, iou=self.iou if iou is None else iou
        )


class NameTrust(Config):
    """How far a network's names are trusted."""

    neighbour: float = Field(ClassScores.neighbour[1], gt=0, lt=1)
    """How often this network gives a level its neighbour's name, as `spine.order` is to take its scores."""
    score_weight: float = Field(ClassScores.weight, gt=0, le=1)
    """How much its scores count there: less than 1 where those of a film err together."""
    temperature: float = Field(1.0, gt=0)
    """What `tempered` divides by: more than 1 where names are less sure than each candidate's own scores make them."""


class SecondLook(NameTrust):
    """A film is looked at again, in the mirror, where one of its names is less sure than ``below``.

    The mean of both views is taken with a confidence and trust of its own. Averaging mirrored views is how nnU-Net
    predicts (Isensee et al. 2021, Nature Methods 18:203); here only films that need it pay for it.
    """

    below: float = Field(gt=0, le=1)
    confidence: float = Field(gt=0, lt=1)
    """In place of the default operating point's; one that was asked for holds for both looks."""


class ModelFile(NameTrust):
    """What a model file says of itself; its trust is for one view of a film."""

    labels: tuple[str, ...]
    size_px: PositiveInt
    operating_points: dict[str, OperatingPoint] = Field(min_length=1)
    """By name; ``default`` is used where none is asked for."""
    untrained: tuple[str, ...] = ()
    """Levels that no labelled film showed in training: a film with such names bears a finding."""
    second_look: SecondLook | None = None
    """None where films are looked at once."""


def read_model_file(path: Path) -> ModelFile:
    """Read and check what a model file says of itself; its other entries are for people.

    Raises:
        SetupError: it is no model for spines, of another version, of other levels, or says too little.
    """
    metadata = read_metadata(path)
    if metadata.get("task") != "spine":
        raise SetupError(f"{path}: a model for {metadata.get('task', 'another task')}, not for spine")
    if metadata.get("metadata_version") != METADATA_VERSION:
        raise SetupError(f"{path}: metadata version {metadata.get('metadata_version')}; export it again")
    try:
        file = ModelFile.model_validate({name: metadata[name] for name in ModelFile.model_fields if name in metadata})
    except ValidationError as error:
        raise SetupError(f"{path}: its metadata is incomplete ({error}); export it again") from error
    if file.labels != LEVELS:
        raise SetupError(f"{path}: its classes are not C1 to L5 in anatomical order; export it again")
    return file


def find_point(path: Path, file: ModelFile, asked: str | OperatingPoint) -> OperatingPoint:
    """Return the operating point of that name, or the one that was given.

    Raises:
        SetupError: the file has none of that name.
    """
    if isinstance(asked, OperatingPoint):
        return asked
    if asked not in file.operating_points:
        known = ", ".join(file.operating_points)
        raise SetupError(f"{path}: has no operating point {asked!r}; it has {known}")
    return file.operating_points[asked]
