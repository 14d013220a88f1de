"""CPU kernels that replace PyTorch's where they are faster. Each module says when its kernel applies."""
