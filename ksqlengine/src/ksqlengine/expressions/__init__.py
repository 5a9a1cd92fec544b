"""Typed expressions that compile to Polars; scalar functions and aggregates."""
