"""Statements, queries and ksqlDB's REST API."""
