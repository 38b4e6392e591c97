"""Scoring: trials and score files, cosine, score normalization, calibration and metrics. Numbers only."""
