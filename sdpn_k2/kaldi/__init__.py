"""Kaldi's file formats, data directories, features, back end and command-line tools, with NumPy alone."""
