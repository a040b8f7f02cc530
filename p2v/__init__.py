"""Physical machines into virtual ones, and back. Start reading at `p2v/pipeline.py`."""

__version__ = "0.1.0"
