"""Generates reports, and builds the demo's sample corpus and small checkpoints from them."""
