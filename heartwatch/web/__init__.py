"""The live page: one reader of the pipeline, and a web server that shows what it read to any number of people."""
