"""CPU kernels that replace PyTorch's own where they are faster; each module says when it applies."""
