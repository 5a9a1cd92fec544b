"""Bytes to columns and back, one module per format."""
