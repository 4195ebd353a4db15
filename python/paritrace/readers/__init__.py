"""Readers of dumps that need Python: pickles of torch. All others are read by the program itself (docs/formats.md)."""
