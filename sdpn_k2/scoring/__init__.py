"""Trials and score files, cosine scores, score normalisation, calibration and metrics: numbers only."""
