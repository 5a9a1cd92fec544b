"""What the page reads of each part of the platform: one module per part, each with its reader and the shape of its answers."""
