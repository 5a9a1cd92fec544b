"""The pages: what is where, and what happens on a click; one module per page, over common components."""
