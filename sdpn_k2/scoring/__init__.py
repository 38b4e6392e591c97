"""Scoring and evaluation: trials and score files, cosine, score normalisation, calibration, metrics, results."""
