"""The live page: the pipeline is read once, and a web server shows what was read to any number of viewers."""
