"""Kaldi's file formats, tables and command-line tools, on NumPy alone."""
