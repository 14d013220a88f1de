"""One forward and backward pass: of one network, or of several fits together."""
