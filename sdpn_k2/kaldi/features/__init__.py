"""Kaldi's features: waves, fbank and MFCC, CMVN, energy VAD."""
