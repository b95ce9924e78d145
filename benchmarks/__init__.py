"""Benchmarks to run by hand. Their results are in this folder, with hardware, commit and command."""
