"""SQL text to a syntax tree with lines and columns."""
