"""pipeline: documents in, rows out. A corpus of Parquet shards through a LED on Ray Data, every document
exactly once.

Layers: `jobs -> pipeline -> led`; imports run one way only. Not here: the model (`led`), command lines
(`jobs`).
"""

__version__ = "0.1.0"
