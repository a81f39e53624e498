"""One evaluation of loss and gradient, softfast against plain NumPy."""

import softfast
from softfast.numpy_reference import loss_gradient as numpy_loss_gradient

from .common import classification, sparse_classification

SHAPES = {"100000x54 K=7": (100_000, 54, 7), "20000x784 K=10": (20_000, 784, 10), "2000x256 K=100": (2_000, 256, 100)}


class LossGradient:
    params = (["softfast", "numpy"], list(SHAPES), ["float32", "float64"])
    param_names = ("library", "shape", "dtype")

    def setup(self, library, shape, dtype):
        self.arguments = classification(*SHAPES[shape], dtype)
        self.function = softfast.loss_gradient if library == "softfast" else numpy_loss_gradient

    def time_loss_gradient(self, library, shape, dtype):
        self.function(*self.arguments)

    def peakmem_loss_gradient(self, library, shape, dtype):
        self.function(*self.arguments)


class LossGradientLayoutAndThreads:
    params = (list(SHAPES), ["C", "F"], [1, 2])
    param_names = ("shape", "order", "n_threads")

    def setup(self, shape, order, n_threads):
        self.arguments = classification(*SHAPES[shape], "float32", order)

    def time_loss_gradient(self, shape, order, n_threads):
        softfast.loss_gradient(*self.arguments, n_threads=n_threads)


SPARSE_SHAPES = {"5000x60000 K=20": (5_000, 60_000, 20, 150), "10000x20000 K=150": (10_000, 20_000, 150, 16)}


class SparseLossGradient:
    params = (list(SPARSE_SHAPES), ["float32", "float64"], [1, 2])
    param_names = ("shape", "dtype", "n_threads")

    def setup(self, shape, dtype, n_threads):
        self.arguments = sparse_classification(*SPARSE_SHAPES[shape], dtype)

    def time_loss_gradient(self, shape, dtype, n_threads):
        softfast.loss_gradient(*self.arguments, n_threads=n_threads)

    def peakmem_loss_gradient(self, shape, dtype, n_threads):
        softfast.loss_gradient(*self.arguments, n_threads=n_threads)
