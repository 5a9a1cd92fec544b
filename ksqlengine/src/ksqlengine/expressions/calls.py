"""Calls of scalar functions, and the lambdas among their arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

from ksqlengine.expressions.base import (
    Compiled,
    Failure,
    LambdaVariable,
    Literal,
    TypedExpression,
    contained,
    hidden,
    once,
)
from ksqlengine.expressions.overloads import Overload
from ksqlengine.expressions.structures import Field
from ksqlengine.types.sqltypes import BOOLEAN


@dataclass(frozen=True)
class Lambda(TypedExpression):
    """x => body, an argument of TRANSFORM, FILTER or REDUCE; its type is the body's."""

    inline = True

    parameters: tuple[LambdaVariable, ...]
    body: TypedExpression

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The body."""
        return (self.body,)

    def compile(self) -> Compiled:
        """Return the body's value over a frame that holds the parameters' columns."""
        return Compiled(self.body.to_polars())


@dataclass(frozen=True)
class Call(TypedExpression):
    """A scalar function's call; arguments already have the overload's types.

    What fails in an argument that is a function or a field itself is NULL to this function, what fails in another one fails the
    whole expression.
    """

    name: str
    arguments: tuple[TypedExpression, ...]
    overload: Overload = field(compare=False, repr=False)

    @property
    def children(self) -> tuple[TypedExpression, ...]:
        """The arguments."""
        return self.arguments

    def compile(self) -> Compiled:
        """Return the function's value; where the function itself fails, so does what surrounds it."""
        compiled = [(argument, argument.compile()) for argument in self.arguments]
        parts = [contained(part) if isinstance(argument, Call | Field) else part for argument, part in compiled]
        values = [part.value for part in parts]
        operands = tuple(zip(self.arguments, values, strict=True))
        value = once(operands, lambda *given: self.overload.build(self, list(given)), self.type)
        failures = tuple(
            failure
            for argument, part in zip(self.arguments, parts, strict=True)
            if not isinstance(argument, Lambda)
            for failure in part.failures
        )
        if not self.overload.null_gives_null:
            failures = hidden(failures)
        fails = self.overload.failed
        if fails is not None:
            failed = once(operands, lambda *given: fails(self, list(given)), BOOLEAN)
            failures += (Failure(failed, f"Failed to invoke function {self.name}"),)
        elif self.overload.may_fail:
            given = [
                given_value.is_not_null()
                for argument, given_value in zip(self.arguments, values, strict=True)
                if not isinstance(argument, Lambda | Literal)
            ]
            failed = reduce(lambda left, right: left & right, given, value.is_null())
            failures += (Failure(failed, f"Failed to invoke function {self.name}"),)
        return Compiled(value, failures)
