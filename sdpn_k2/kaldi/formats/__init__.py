"""Kaldi's file formats: vectors, matrices, and the tables that hold them."""
