"""The research core: plain PyTorch, NumPy and SciPy, to be read beside the paper. No files, no clusters, no clock."""
