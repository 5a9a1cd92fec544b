"""Reads back what the sink connectors wrote, whatever the layout."""
