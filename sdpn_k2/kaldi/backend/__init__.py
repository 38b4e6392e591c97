"""Kaldi's speaker back end: vectors, LDA, PLDA, clustering, trials and EER."""
