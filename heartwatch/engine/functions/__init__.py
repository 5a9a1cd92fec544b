"""Scalar functions by family; importing this package fills the registry."""

from heartwatch.engine.functions import collections, datetime, json_functions, nulls, numeric, strings, urls
from heartwatch.engine.functions.registry import FUNCTIONS, Function, Overload, resolve

FAMILIES = (collections, datetime, json_functions, nulls, numeric, strings, urls)

__all__ = ["FAMILIES", "FUNCTIONS", "Function", "Overload", "resolve"]
