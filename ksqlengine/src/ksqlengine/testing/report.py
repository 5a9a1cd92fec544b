"""Runs the tests of files and prints what came of them: what the command lines share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ksqlengine.testing.cases import CaseFileError, Surroundings, read_case, read_folder
from ksqlengine.testing.runner import Result, run_case, run_sql_test
from ksqlengine.testing.sql_tests import read_sql_tests, sql_test_files


def run_files(
    path: Path,
    input_file: Path | None = None,
    output_file: Path | None = None,
    surroundings: Callable[[Path], Surroundings] | None = None,
    properties: Mapping[str, str] | None = None,
) -> list[Result]:
    """Run the tests of files.

    Args:
        path: statements, with an input and an output file; a folder of tests or of migrations; a file or folder of SQL tests.
        input_file: JSON file of the records that go in.
        output_file: JSON file of the records that must come out, or of the refusal that is expected.
        surroundings: returns what a folder of migrations needs (see `read_folder`).
        properties: session properties that are set before the first statement of each test.

    Raises:
        CaseFileError: a file can't be used.
    """
    if output_file is not None:
        return [run_case(read_case(path, input_file, output_file), properties=properties)]
    if input_file is not None:
        raise CaseFileError(
            "an output file is missing; give statements, input and output, a folder, or a file of SQL tests"
        )
    if path.is_dir() and not sql_test_files(path):
        return [run_case(case, properties=properties) for case in read_folder(path, surroundings)]
    files = sql_test_files(path) if path.is_dir() else [path]
    return [run_sql_test(test, properties) for file in files for test in read_sql_tests(file)]


def print_results(results: Sequence[Result]) -> bool:
    """Print the tests that failed and how many passed; say whether all did."""
    failed = [result for result in results if result.failure is not None]
    for result in failed:
        print(f"FAILED {result.name}: {result.failure}")
    if len(results) == 1 and failed:
        print(*failed[0].details, sep="\n")
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return not failed
