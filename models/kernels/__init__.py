"""Kernels: convolution, normalisation, ReLU and pooling under Chainer, by the fastest provider present."""
