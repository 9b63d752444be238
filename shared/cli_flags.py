"""Flags that the command lines of all tasks share, as types for tyro."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from shared.cli import Voice

Device = Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")]
Precision = Literal["auto", "fp32", "int8"]
Quiet = Annotated[Voice, arg(name=""), FlagCreatePairsOff]
Flag = FlagCreatePairsOff[bool]
