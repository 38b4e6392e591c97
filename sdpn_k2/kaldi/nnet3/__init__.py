"""Kaldi's nnet3 networks: raw models, read, written, described and computed."""
