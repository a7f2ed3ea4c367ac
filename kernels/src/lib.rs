//! CPU numeric kernels with a fixed summation order
