"""A syntax tree and the catalog to a typed plan."""
