"""tfser: speech emotion recognition from cached features.

Corpus folder -> utterance rows -> features -> shards -> batches -> head -> predictions and scores, with a DuckDB
catalogue over all of it. Start at the README; the house and its rules are in docs/design.md.
"""

__version__ = "0.1.0"
