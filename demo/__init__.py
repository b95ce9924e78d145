"""The demo: a generator of reports, and the scripts that make the sample corpus and the small checkpoints
from it."""
