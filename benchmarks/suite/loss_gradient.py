"""One evaluation of loss and gradient, softfast against plain NumPy."""

import softfast
from softfast.numpy_reference import loss_gradient as numpy_loss_gradient

from .common import classification

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
