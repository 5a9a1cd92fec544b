"""The contract between planning and execution: steps, the catalog, EXPLAIN."""
