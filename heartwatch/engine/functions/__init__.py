"""Scalar and table functions by family; importing this package fills the registry."""

from heartwatch.engine.functions import datetime as _datetime
from heartwatch.engine.functions import nulls as _nulls
from heartwatch.engine.functions.registry import FUNCTIONS, Function, Overload, resolve

__all__ = ["FUNCTIONS", "Function", "Overload", "resolve"]
_FAMILIES = (_datetime, _nulls)
