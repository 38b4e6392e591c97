"""Experiments: grids of training runs, each in the folder that ``egs/voxceleb/run.sh`` leaves."""
