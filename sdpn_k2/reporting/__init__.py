"""Reporting: the results, pictures and pages of an experiment folder."""
