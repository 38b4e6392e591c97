"""One module per kind of corpus: each turns audio into lhotse manifests and Kaldi data directories."""
