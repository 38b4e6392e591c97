"""Kaldi data directories: their tables, the operations of ``utils/`` and the utterances they name."""
