"""Files that somebody else wrote: recordings of wearables and tables of events or ranges, read tolerantly.

Nothing in a file raises a traceback, and one bad file, row or sample never refuses the others: what is left out is counted by
reason, and written to a reject file.
"""
