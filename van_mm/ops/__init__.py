"""CPU kernels for VAN's layers: compiling, loading, gradients, and the choice between them and PyTorch's operators."""
