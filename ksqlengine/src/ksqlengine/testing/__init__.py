"""KSQL tests without a broker: statements, input records and expected output records, run through the engine's own operators.

`cases` reads the files of ksqlDB's test runner, `sql_tests` its SQL form; `records` turns JSON into a topic's bytes
and back; `differences` compares; `runner` runs, and `report` prints what came of it.
"""
