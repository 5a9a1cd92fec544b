"""Scalar functions by family; importing this package fills the registry."""

from ksqlengine.expressions.functions import collections, datetime, json_functions, nulls, numeric, strings, urls
from ksqlengine.expressions.overloads import FUNCTIONS, Function, Overload, resolve

FAMILIES = (collections, datetime, json_functions, nulls, numeric, strings, urls)

__all__ = ["FAMILIES", "FUNCTIONS", "Function", "Overload", "resolve"]
