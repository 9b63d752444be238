"""Flags that the command lines of all tasks share, as types for tyro."""

from __future__ import annotations

from dataclasses import replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args

from tyro.conf import FlagCreatePairsOff, arg
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from shared.cli import Voice

Device = Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")]
Precision = Literal["auto", "fp32", "int8"]
Quiet = Annotated[Voice, arg(name=""), FlagCreatePairsOff]
Flag = FlagCreatePairsOff[bool]

RULES = ConstructorRegistry()
"""How tyro reads types, where we differ from it; in force inside ``with RULES``."""


@RULES.primitive_rule
def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Read ``Path | None`` as a path that may be left out; the word None is still taken, to undo a preset's value.

    tyro's own rule does the same and writes ``{None}|PATH`` in the help.
    """
    options = [option for option in get_args(info.type) if option is not NoneType]
    if info.type_origin not in (Union, UnionType) or len(options) != 1 or len(get_args(info.type)) != 2:
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(options[0], info.markers))
    if isinstance(inner, UnsupportedTypeAnnotationError) or inner.nargs != 1:
        return None
    return replace(
        inner,
        choices=inner.choices and (*inner.choices, "None"),
        instance_from_str=lambda words: None if words == ["None"] else inner.instance_from_str(words),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
    )
