"""Checks what the pipeline does: alerts against a batch computation and the truth, rates against objectives, parts' health."""
