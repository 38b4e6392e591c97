"""Inference: embeddings of files, data directories, windows and streams; verification; export to ONNX."""
