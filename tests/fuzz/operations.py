"""Every operation of a server's OpenAPI document, called with what the document allows and with what it does not."""

from __future__ import annotations

from typing import Any, cast

import schemathesis
from hypothesis import given
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, BaseSchema, Case, CheckFunction, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz.effort import effort
from tests.fuzz.tally import Tally

HANG_S = 90.0
"""No answer for so long is a request that hangs."""

CHECKS: list[CheckFunction] = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]
_WEIGHT = 6
"""Operations with a body are tried so much oftener than others."""

Operation = APIOperation[Any, Any, Any, Any]


def read_document(url: str) -> BaseSchema:
    """The server's document, which must be valid OpenAPI, without what is answered for as long as a worker lives."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    document.validate()
    return document.exclude(path_regex="/logs$")


def fuzz_operations(document: BaseSchema, cases: int, tally: Tally) -> None:
    """Call every operation; one that hangs, or is answered in a way that the document does not know, is an error."""
    operations: list[Operation] = [cast(Any, found).ok() for found in document.get_all_operations()]
    whole = sum(_weight(operation) for operation in operations)
    for operation in operations:
        share = 1 + cases * _weight(operation) // whole
        _fuzz(operation, GenerationMode.POSITIVE, share - share // 2, tally)
        if list(operation.iter_parameters()) or operation.body:
            _fuzz(operation, GenerationMode.NEGATIVE, share // 2, tally)


def _weight(operation: Operation) -> int:
    if operation.body:
        return _WEIGHT
    return 2 if list(operation.iter_parameters()) else 1


def _fuzz(operation: Operation, mode: GenerationMode, cases: int, tally: Tally) -> None:
    if cases == 0:
        return

    @effort(cases)
    @given(case=operation.as_strategy(generation_mode=mode))
    def conforms(case: Case[Any]) -> None:
        response = tally.time(operation.label, lambda: case.call(timeout=HANG_S))
        tally.see(response.status_code)
        case.validate_response(response, checks=CHECKS)

    try:
        conforms()
    except Unsatisfiable:  # Of a text, nothing is wrong.
        assert mode is GenerationMode.NEGATIVE
