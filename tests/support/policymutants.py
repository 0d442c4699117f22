"""Policies with one thing less: a statement, an action, a resource, a condition or its value."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Statement = Mapping[str, Any]
Statements = list[dict[str, Any]]


def as_list(value: Any) -> list[Any]:
    """Return a value of a policy, which may be one or a list, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def mutants(statements: Sequence[Statement]) -> Iterator[tuple[str, Statements]]:
    """Yield each policy that lacks one thing, with its name.

    What a statement has one of cannot be left out of it: then the statement is left out.
    """
    for number, statement in enumerate(statements):
        name = statement["Sid"]
        yield name, [dict(kept) for kept in statements if kept is not statement]
        for what, smaller in _smaller(statement):
            made = copy.deepcopy([dict(kept) for kept in statements])
            made[number] = smaller
            yield f"{name}: {what}", made


def _smaller(statement: Statement) -> Iterator[tuple[str, dict[str, Any]]]:
    for element in ("Action", "Resource"):
        values = as_list(statement[element])
        for value in values if len(values) > 1 else ():
            kept = [other for other in values if other != value]
            yield f"{element} {value}", {**statement, element: kept}
    for operator, wanted in statement.get("Condition", {}).items():
        for key, values in wanted.items():
            rest = {other: wanted[other] for other in wanted if other != key}
            conditions = {**statement["Condition"], operator: rest}
            yield (
                f"{operator} {key}",
                {
                    **statement,
                    "Condition": {name: made for name, made in conditions.items() if made},
                },
            )
            for value in as_list(values) if len(as_list(values)) > 1 else ():
                kept = [other for other in as_list(values) if other != value]
                less = {**statement["Condition"], operator: {**wanted, key: kept}}
                yield f"{operator} {key} {value}", {**statement, "Condition": less}
