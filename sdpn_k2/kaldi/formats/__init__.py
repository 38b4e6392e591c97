"""Kaldi's file formats: matrices, vectors and the tables that hold them."""
