"""Syntax expressions to typed ones: names become columns, operators and functions find their types.

Columns are given by their names in the frame that the expression will run over; the analyzer has replaced sources' names and
aliases already. Messages are ksqlDB's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod

from ksqlengine.expressions.aggregates import AGGREGATES
from ksqlengine.expressions.arithmetic import Arithmetic, Concatenation, Negation
from ksqlengine.expressions.base import ColumnExpression, LambdaVariable, Literal, TypedExpression
from ksqlengine.expressions.calls import Call, Lambda
from ksqlengine.expressions.conversion import Cast
from ksqlengine.expressions.functions import FUNCTIONS
from ksqlengine.expressions.functions.tables import TABLE_FUNCTIONS
from ksqlengine.expressions.logic import Case, Comparison, InList, IsNull, Like, Logical, Not
from ksqlengine.expressions.overloads import INTERVAL, Function, LambdaType, fit, resolve, substituted
from ksqlengine.expressions.structures import ArrayIndex, Field, MapIndex, NewArray, NewMap, NewStruct
from ksqlengine.language import ast
from ksqlengine.planning.common_type import coerced, decimal_type
from ksqlengine.types.casts import can_cast, parse_time_text
from ksqlengine.types.errors import ExpressionError, NotSupportedError, ParseError, Phase, StatementError
from ksqlengine.types.sqltypes import (
    BIGINT,
    BIGINT_MAX,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    INTEGER_MAX,
    MOST_DIGITS,
    NULL,
    STRING,
    TIME,
    TIMESTAMP,
    ArrayType,
    DecimalType,
    MapType,
    SqlType,
    StructType,
    as_decimal,
)

_COMPARISON_NAMES = {
    "=": "EQUAL", "<>": "NOT_EQUAL", "<": "LESS_THAN", "<=": "LESS_THAN_OR_EQUAL", ">": "GREATER_THAN",
    ">=": "GREATER_THAN_OR_EQUAL", "IS DISTINCT FROM": "IS_DISTINCT_FROM",
}  # fmt: skip
_EQUALITY = ("=", "<>", "IS DISTINCT FROM")
_TIMES = (TIMESTAMP, DATE, TIME)
_NUMBER_NAMES = ("INTEGER", "BIGINT", "DECIMAL", "DOUBLE")
_TIME_COLUMNS = ("ROWTIME", "WINDOWSTART", "WINDOWEND")
_DAY_UNITS = {"DAY", "HOUR", "MINUTE", "SECOND"}


def decimal_result(operator: str, left: DecimalType, right: DecimalType) -> DecimalType:
    """Return the type of an operation on DECIMALs. Source: ksqlDB's SqlDecimal."""
    whole_left, whole_right = left.precision - left.scale, right.precision - right.scale
    scale = max(left.scale, right.scale)
    if operator in "+-":
        return DecimalType(precision=scale + max(whole_left, whole_right) + 1, scale=scale)
    if operator == "*":
        return DecimalType(precision=left.precision + right.precision + 1, scale=left.scale + right.scale)
    if operator == "/":
        scale = max(6, left.scale + right.precision + 1)
        return DecimalType(precision=left.precision - left.scale + right.scale + scale, scale=scale)
    return DecimalType(precision=min(whole_left, whole_right) + scale, scale=scale)


def arithmetic_type(operator: str, left: SqlType, right: SqlType) -> SqlType:
    """Return the type of an operation on numbers.

    Raises:
        StatementError: the operation isn't one of numbers.
    """
    if operator == "+" and left == right == STRING:
        return STRING
    names = left.name, right.name
    if not all(name in _NUMBER_NAMES for name in names):
        if NULL in (left, right):
            shown = " and ".join("null" if type_ == NULL else str(type_) for type_ in (left, right))
            raise StatementError(f"Arithmetic on types {shown} are not supported.")
        raise StatementError(f"Unsupported arithmetic types. {' '.join(names)}")
    if "DOUBLE" in names:
        return DOUBLE
    if "DECIMAL" in names:
        first, second = as_decimal(left), as_decimal(right)
        assert isinstance(first, DecimalType) and isinstance(second, DecimalType)  # noqa: S101, PT018 - for the type checker
        return decimal_result(operator, first, second)
    return BIGINT if "BIGINT" in names else INTEGER


@dataclass
class Binder:
    """Binds expressions over one frame.

    Attributes:
        columns: names and types of the frame's columns.
        replacements: expressions that stand for columns of the frame (GROUP BY expressions, aggregates).
        lambda_variables: parameters of the lambdas around.
    """

    columns: Mapping[str, SqlType]
    replacements: Mapping[ast.SyntaxExpression, TypedExpression] = field(default_factory=dict)
    lambda_variables: Mapping[str, LambdaVariable] = field(default_factory=dict)

    def bind(self, node: ast.SyntaxExpression) -> TypedExpression:
        """Return the typed expression.

        Raises:
            StatementError: a column is unknown or types don't fit.
        """
        known = self.replacements.get(node)
        return known if known is not None else self._bind(node)

    @singledispatchmethod
    def _bind(self, node: ast.SyntaxExpression) -> TypedExpression:
        raise StatementError(f"Unsupported expression: {node}")

    # ------------------------------------------------------------------ leaves
    @_bind.register
    def _null(self, node: ast.NullLiteral) -> TypedExpression:
        return Literal(NULL, None, text=str(node))

    @_bind.register
    def _boolean(self, node: ast.BooleanLiteral) -> TypedExpression:
        return Literal(BOOLEAN, node.value, text=str(node))

    @_bind.register
    def _integer(self, node: ast.IntegerLiteral) -> TypedExpression:
        if not -BIGINT_MAX - 1 <= node.value <= BIGINT_MAX:
            raise ParseError(f"Invalid numeric literal: {node.value}", node.position)
        small = -INTEGER_MAX - 1 <= node.value <= INTEGER_MAX
        return Literal(INTEGER if small else BIGINT, node.value, text=str(node))

    @_bind.register
    def _decimal(self, node: ast.DecimalLiteral) -> TypedExpression:
        return Literal(decimal_type(node.value), node.value, text=str(node))

    @_bind.register
    def _double(self, node: ast.DoubleLiteral) -> TypedExpression:
        return Literal(DOUBLE, node.value, text=str(node))

    @_bind.register
    def _string(self, node: ast.StringLiteral) -> TypedExpression:
        return Literal(STRING, node.value, text=str(node))

    @_bind.register
    def _interval(self, node: ast.IntervalUnit) -> TypedExpression:
        return Literal(INTERVAL, node.unit, text=str(node))

    @_bind.register
    def _column(self, node: ast.ColumnReference) -> TypedExpression:
        variable = self.lambda_variables.get(node.name)
        if variable is not None and node.qualifier is None:
            return variable
        if node.name not in self.columns:
            raise StatementError(f"Unknown column {node.name}.")
        return ColumnExpression(self.columns[node.name], node.name, text=str(node))

    # ------------------------------------------------------------------ arithmetic and logic
    @_bind.register
    def _unary(self, node: ast.Unary) -> TypedExpression:
        operand = self.bind(node.operand)
        if operand.type.name not in _NUMBER_NAMES:
            raise StatementError(f"Unsupported arithmetic types. {operand.type.name}")
        return operand if node.operator == "+" else Negation(operand.type, operand, text=str(node))

    @_bind.register
    def _arithmetic(self, node: ast.Arithmetic) -> TypedExpression:
        left, right = self.bind(node.left), self.bind(node.right)
        try:
            type_ = arithmetic_type(node.operator, left.type, right.type)
        except StatementError as error:
            raise ExpressionError(f"Error processing expression: {node}. {error.message}", node) from error
        if isinstance(type_, DecimalType) and type_.scale > MOST_DIGITS:
            raise NotSupportedError(f"{node}: a DECIMAL with more than {MOST_DIGITS} decimal places")
        if type_ == STRING:
            return Concatenation(STRING, left, right, text=str(node))
        return Arithmetic(type_, node.operator, left, right, text=str(node))

    @_bind.register
    def _comparison(self, node: ast.Comparison) -> TypedExpression:
        return self._compared(node.operator, self.bind(node.left), self.bind(node.right), node)

    def _compared(
        self, operator: str, left: TypedExpression, right: TypedExpression, node: ast.SyntaxExpression
    ) -> TypedExpression:
        if NULL in (left.type, right.type):
            names = " ".join((left.type.name, operator, right.type.name))
            raise StatementError(
                f"Comparison with NULL not supported: {names}\nUse 'IS NULL' or 'IS NOT NULL' instead."
            )
        left, right = self._time_text(left, right), self._time_text(right, left)
        if not _comparable(left.type, operator, right.type):
            words = f"Cannot compare {left} ({left.type}) to {right} ({right.type}) with {_COMPARISON_NAMES[operator]}."
            raise ExpressionError(words, node)
        if isinstance(left.type, ArrayType | MapType | StructType) and left.type != right.type:
            raise NotSupportedError(f"A comparison of {left.type} with {right.type}")
        if {left.type, right.type} == {DATE, TIMESTAMP}:
            left, right = (_cast(side, TIMESTAMP) for side in (left, right))
        return Comparison(BOOLEAN, operator, left, right, text=str(node))

    @staticmethod
    def _time_text(side: TypedExpression, other: TypedExpression) -> TypedExpression:
        """Return text that is compared with a time as that time."""
        if side.type != STRING:
            return side
        pseudo = other.type == BIGINT and isinstance(other, ColumnExpression) and other.name.endswith(_TIME_COLUMNS)
        if other.type not in _TIMES and not pseudo:
            return side
        target = TIMESTAMP if pseudo or (other.type == DATE and "T" in side.text) else other.type
        if not isinstance(side, Literal):
            return side if pseudo else Cast(target, side, contains_failures=False, text=side.text)
        value = parse_time_text(side.value, target)
        if value is None:
            raise StatementError(f"Failed to parse timestamp '{side.value}': it is not a {target}")
        if pseudo:
            milliseconds = (value - type(value)(1970, 1, 1)).total_seconds() * 1000  # type: ignore[operator]
            return Literal(BIGINT, round(milliseconds), text=side.text)
        return Literal(target, value, text=side.text)

    @_bind.register
    def _logical(self, node: ast.Logical) -> TypedExpression:
        return Logical(BOOLEAN, node.operator, self._condition(node.left), self._condition(node.right), text=str(node))

    def _condition(self, node: ast.SyntaxExpression) -> TypedExpression:
        bound = self.bind(node)
        if bound.type != BOOLEAN:
            raise StatementError(f"Expected a BOOLEAN but {bound} is {bound.type}.")
        return bound

    @_bind.register
    def _not(self, node: ast.Not) -> TypedExpression:
        return Not(BOOLEAN, self._condition(node.operand), text=str(node))

    @_bind.register
    def _between(self, node: ast.Between) -> TypedExpression:
        value, low, high = self.bind(node.value), self.bind(node.low), self.bind(node.high)
        above = self._compared(">=", value, low, node)
        return Logical(BOOLEAN, "AND", above, self._compared("<=", value, high, node), text=str(node))

    @_bind.register
    def _in_list(self, node: ast.InList) -> TypedExpression:
        value = self.bind(node.value)
        items = [self.bind(item) for item in node.items]
        parts = coerced([value, *items], str(node))
        if value.type == DATE:
            # ksqlDB compares a date with the texts as they are written: none of them is ever equal.
            texts = (item.type == STRING for item in items)
            parts[1:] = [Literal(DATE, None) if text else part for text, part in zip(texts, parts[1:], strict=True)]
        return InList(BOOLEAN, parts[0], tuple(parts[1:]), text=str(node))

    @_bind.register
    def _like(self, node: ast.Like) -> TypedExpression:
        value, pattern = self.bind(node.value), self.bind(node.pattern)
        for side in (value, pattern):
            if side.type not in (STRING, NULL):
                raise StatementError(f"Unsupported type for LIKE: {side} is {side.type}.")
        return Like(BOOLEAN, value, pattern, node.escape, text=str(node))

    @_bind.register
    def _is_null(self, node: ast.IsNull) -> TypedExpression:
        return IsNull(BOOLEAN, self.bind(node.value), node.negated, text=str(node))

    @_bind.register
    def _case(self, node: ast.Case) -> TypedExpression:
        whens = []
        for when in node.whens:
            condition = when.condition
            if node.operand is not None:
                condition = ast.Comparison("=", node.operand, condition, position=when.position)
            bound = self.bind(condition)
            if bound.type != BOOLEAN:
                raise StatementError(
                    f"WHEN operand type should be boolean.\nType for '{when.condition}' is {bound.type}"
                )
            whens.append((bound, self.bind(when.result)))
        default = self.bind(node.default) if node.default is not None else None
        type_ = _case_type(node, [result.type for _, result in whens], default.type if default else NULL)
        return Case(type_, tuple(whens), default, text=str(node))

    # ------------------------------------------------------------------ structured values
    @_bind.register
    def _cast_node(self, node: ast.Cast) -> TypedExpression:
        operand = self.bind(node.value)
        if not can_cast(operand.type, node.type):
            raise StatementError(f"Cast of {operand.type} to {node.type} is not supported")
        if isinstance(operand, Literal) and operand.type == NULL:
            return Literal(node.type, None, text=str(node))
        return operand if operand.type == node.type else Cast(node.type, operand, text=str(node))

    @_bind.register
    def _subscript(self, node: ast.Subscript) -> TypedExpression:
        base, index = self.bind(node.base), self.bind(node.index)
        if isinstance(base.type, ArrayType):
            if index.type not in (INTEGER, BIGINT):
                raise StatementError(f"Array index must be an INTEGER: {node}")
            return ArrayIndex(base.type.element, base, index, text=str(node))
        if isinstance(base.type, MapType):
            return MapIndex(base.type.value, base, _implicit(index, base.type.key), text=str(node))
        hint = ""
        if isinstance(base.type, StructType):
            hint = f" Use the dereference operator for STRUCTS: {node.base}->{node.index}"
        raise StatementError(f"Subscript expression ({node}) do not apply to {base.type}.{hint}")

    @_bind.register
    def _dereference(self, node: ast.Dereference) -> TypedExpression:
        base = self.bind(node.base)
        if not isinstance(base.type, StructType):
            raise StatementError(f"Expected STRUCT type, got: {base.type}")
        fields = dict(base.type.fields)
        if node.field_name not in fields:
            raise StatementError(f"Could not find field '{node.field_name}' in '{node.base}'.")
        return Field(fields[node.field_name], base, node.field_name, text=str(node))

    @_bind.register
    def _array(self, node: ast.ArrayConstructor) -> TypedExpression:
        if not node.items:
            raise StatementError(
                "Array constructor cannot be empty. Please supply at least one element "
                "(see https://github.com/confluentinc/ksql/issues/4239)."
            )
        items = coerced([self.bind(item) for item in node.items], str(node))
        if items[0].type == NULL:
            raise StatementError(
                "Cannot construct an array with all NULL elements (see https://github.com/confluentinc/ksql/issues/4239). "
                "As a workaround, you may cast a NULL value to the desired type."
            )
        return NewArray(ArrayType(element=items[0].type), tuple(items), text=str(node))

    @_bind.register
    def _map(self, node: ast.MapConstructor) -> TypedExpression:
        if not node.entries:
            raise StatementError(
                "Map constructor cannot be empty. Please supply at least one key value pair "
                "(see https://github.com/confluentinc/ksql/issues/4239)."
            )
        sides = []
        for what, parts in zip(("key", "value"), zip(*node.entries, strict=True), strict=True):
            side = coerced([self.bind(part) for part in parts], str(node))
            if side[0].type == NULL:
                raise StatementError(
                    f"Cannot construct a map with all NULL {what}s (see https://github.com/confluentinc/ksql/issues/4239). "
                    f"As a workaround, you may cast a NULL {what} to the desired type."
                )
            sides.append(side)
        type_ = MapType(key=sides[0][0].type, value=sides[1][0].type)
        return NewMap(type_, tuple(zip(*sides, strict=True)), text=str(node))

    @_bind.register
    def _struct(self, node: ast.StructConstructor) -> TypedExpression:
        items = tuple((name, self.bind(value)) for name, value in node.fields)
        names = [name for name, _ in items]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise StatementError(f"Duplicate field names found in STRUCT: `{repeated}`")
        type_ = StructType(fields=tuple((name, item.type) for name, item in items))
        return NewStruct(type_, items, text=str(node))

    # ------------------------------------------------------------------ functions
    @_bind.register
    def _lambda(self, node: ast.Lambda) -> TypedExpression:
        raise StatementError(f"A lambda can only be an argument of a function: {node}")

    @_bind.register
    def _function(self, node: ast.FunctionCall) -> TypedExpression:
        if node.name in AGGREGATES:
            raise StatementError(f"Aggregate function {node.name} can't be used here: {node}")
        if node.name not in FUNCTIONS:
            raise StatementError(f"Can't find any functions with the name '{node.name}'")
        return self._call(node, FUNCTIONS[node.name])

    def table_function(self, node: ast.FunctionCall) -> TypedExpression:
        """Return the array of the rows that a call of a table function gives.

        Raises:
            StatementError: it doesn't take these arguments.
        """
        return self._call(node, TABLE_FUNCTIONS[node.name])

    def _call(self, node: ast.FunctionCall, function: Function) -> TypedExpression:
        arguments = self._arguments(node, function)
        types = [
            LambdaType(parameters=tuple(parameter.type for parameter in argument.parameters), result=argument.body.type)
            if isinstance(argument, Lambda)
            else argument.type
            for argument in arguments
        ]
        resolved = resolve(function, types)
        converted = tuple(
            argument if isinstance(argument, Lambda) else _implicit(argument, target)
            for argument, target in zip(arguments, resolved.targets, strict=True)
        )
        call = Call(resolved.returns, node.name, converted, resolved.overload, text=str(node))
        check = resolved.overload.check
        if check is not None:
            check(call)
        return call

    def _arguments(self, node: ast.FunctionCall, function: Function) -> list[TypedExpression]:
        plain = [
            None if isinstance(argument, ast.Lambda) else self._argument(function, index, argument)
            for index, argument in enumerate(node.arguments)
        ]
        return [
            self._bound_lambda(function, index, argument, plain) if isinstance(argument, ast.Lambda) else plain[index]  # type: ignore[misc]
            for index, argument in enumerate(node.arguments)
        ]

    def _argument(self, function: Function, index: int, argument: ast.SyntaxExpression) -> TypedExpression:
        unit = argument.name if isinstance(argument, ast.ColumnReference) and argument.qualifier is None else None
        wanted = any(
            index < len(overload.parameters) and overload.parameters[index] == INTERVAL
            for overload in function.overloads
        )
        if wanted and unit in _DAY_UNITS and unit not in self.columns:
            return Literal(INTERVAL, f"{unit}S", text=str(argument))
        return self.bind(argument)

    def _bound_lambda(
        self, function: Function, index: int, argument: ast.Lambda, plain: Sequence[TypedExpression | None]
    ) -> Lambda:
        types = self._lambda_types(function, index, argument, plain)
        repeated = set(argument.parameters) & self.lambda_variables.keys()
        if repeated or len(set(argument.parameters)) < len(argument.parameters):
            raise StatementError("Reusing lambda arguments in nested lambda is not allowed")
        clash = next((name for name in argument.parameters if name in self.columns), None)
        if clash is not None:
            message = f"Lambda function argument can't be a column name: {clash}"
            raise StatementError(message).in_phase(Phase.NAMED)
        depth = len(self.lambda_variables)
        variables = {
            name: LambdaVariable(type_, f"__LAMBDA_{depth + number}", text=name)
            for number, (name, type_) in enumerate(zip(argument.parameters, types, strict=True))
        }
        inner = replace(self, lambda_variables={**self.lambda_variables, **variables})
        body = inner.bind(argument.body)
        return Lambda(body.type, tuple(variables.values()), body, text=str(argument))

    def _lambda_types(
        self, function: Function, index: int, argument: ast.Lambda, plain: Sequence[TypedExpression | None]
    ) -> tuple[SqlType, ...]:
        for overload in function.overloads:
            if len(overload.parameters) != len(plain):
                continue
            parameter = overload.parameters[index]
            bindings: dict[str, SqlType] = {}
            fits = all(
                bound is None or fit(overload.parameters[position], bound.type, bindings)
                for position, bound in enumerate(plain)
            )
            if fits and isinstance(parameter, LambdaType) and len(parameter.parameters) == len(argument.parameters):
                return tuple(substituted(nested, bindings, NULL) for nested in parameter.parameters)
        shown = ", ".join("LAMBDA" if bound is None else str(bound.type) for bound in plain)
        raise StatementError(f"Function '{function.name}' does not accept parameters ({shown}).")


def _comparable(left: SqlType, operator: str, right: SqlType) -> bool:
    names = left.name, right.name
    if all(name in _NUMBER_NAMES for name in names):
        return True
    if left.name == "BOOLEAN" or isinstance(left, ArrayType | MapType | StructType):
        return left.name == right.name and operator in _EQUALITY
    if left in (DATE, TIMESTAMP):
        return right in (DATE, TIMESTAMP)
    return left == right


def _case_type(node: ast.Case, results: list[SqlType], default: SqlType) -> SqlType:
    known = NULL
    for when, type_ in zip(node.whens, results, strict=True):
        if NULL in (type_, known):
            known = known if type_ == NULL else type_
        elif type_ != known:
            raise StatementError(
                "Invalid Case expression. Type for all 'THEN' clauses should be the same.\n"
                f"THEN expression '{when}' has type: {type_}.\nPrevious THEN expression(s) type: {known}."
            )
    if NULL not in (known, default) and known != default:
        raise StatementError(
            "Invalid Case expression. Type for the default clause should be the same as for 'THEN' clauses.\n"
            f"THEN type: {known}.\nDEFAULT type: {default}."
        )
    result = default if known == NULL else known
    if result == NULL:
        raise StatementError("Invalid Case expression. All case branches have NULL type")
    return result


def _cast(value: TypedExpression, target: SqlType) -> TypedExpression:
    return value if value.type == target else Cast(target, value, text=value.text)


def _implicit(value: TypedExpression, target: SqlType) -> TypedExpression:
    """Return a value in the type that a function wants: widened numbers, typed NULLs."""
    if value.type == target or target in (INTERVAL, NULL):
        return value
    if isinstance(value, Literal) and value.type == NULL:
        return Literal(target, None, text=value.text)
    return _cast(value, target)
