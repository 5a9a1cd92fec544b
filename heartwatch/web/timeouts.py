"""How long the page waits for what it asks."""

REQUEST_SECONDS = 5.0
"""Longest that a part may take to answer, s."""
