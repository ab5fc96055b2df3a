"""Counting the parts of a JSON body: separators inside strings do not count, and counting is fast."""

import json
import time

import pytest

from api.request_parsing import MAX_JSON_PARTS, _has_too_many_parts


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"text": "a, [b], {c}, " * 50_000}),
        json.dumps({"text": ['he said, "yes, [maybe]" \\, ' * 2000] * 64}),
        json.dumps({"text": ["\\" * 5000 + ",", "\\\\" * 5000 + ","] * 32}),
        json.dumps({"content": "A" * 1_000_000}),
        json.dumps(["x"] * (MAX_JSON_PARTS - 2)),
        "",
    ],
    ids=lambda body: body[:24],
)
def test_separators_inside_strings_are_not_counted(body):
    assert not _has_too_many_parts(body.encode())


@pytest.mark.parametrize(
    "body",
    [
        "[" + "1," * 20_000 + "1]",
        "[" * 20_000,
        "{" * 20_000,
        "[" + '"x",' * 20_000 + '"x"]',
        '{"a": "\\\\",' * 11_000,
        json.dumps({"text": "x", "more": [","] * 20_000}),
        '"closed" ' + "," * 20_000,
    ],
    ids=lambda body: body[:24],
)
def test_separators_outside_strings_are_counted(body):
    assert _has_too_many_parts(body.encode())


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b'\\"' * 15_000_000 + b",",
        b'"' + b"," * 30_000_000,
        b'""' * 10_000_000 + b"," * 10_001,
        b'"",' * 10_000_000,
        b'{"text": "' + b"x, " * 10_000_000 + b'"}',
        b"\\" * 30_000_000 + b"," * 10_001,
    ],
    ids=["escaped quotes", "unclosed string", "adjacent strings", "many strings", "one text", "backslashes"],
)
def test_thirty_megabytes_are_counted_quickly(body):
    start = time.process_time()
    _has_too_many_parts(body)
    assert time.process_time() - start < 3, "a quadratic count would take hours"
