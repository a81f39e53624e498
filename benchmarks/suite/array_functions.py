"""Array functions, softfast against scipy.special."""

import numpy as np
import scipy.special

import softfast

SHAPES = {"1x10": (1, 10), "100000x10": (100_000, 10), "2000x1000": (2_000, 1000)}


class ArrayFunction:
    params = (["softfast", "scipy"], ["softmax", "log_softmax", "logsumexp"], list(SHAPES), ["float32", "float64"])
    param_names = ("library", "function", "shape", "dtype")

    def setup(self, library, function, shape, dtype):
        self.x = np.random.default_rng(20263).standard_normal(SHAPES[shape]).astype(dtype)
        self.function = getattr(softfast if library == "softfast" else scipy.special, function)

    def time_last_axis(self, library, function, shape, dtype):
        self.function(self.x, axis=-1)

    def time_first_axis(self, library, function, shape, dtype):
        self.function(self.x, axis=0)

    def peakmem_last_axis(self, library, function, shape, dtype):
        self.function(self.x, axis=-1)


class CrossEntropy:
    params = (list(SHAPES), ["float32", "float64"])
    param_names = ("shape", "dtype")

    def setup(self, shape, dtype):
        rng = np.random.default_rng(20264)
        self.x = rng.standard_normal(SHAPES[shape]).astype(dtype)
        self.y = rng.integers(0, SHAPES[shape][1], SHAPES[shape][0])

    def time_cross_entropy(self, shape, dtype):
        softfast.cross_entropy(self.x, self.y)

    def time_cross_entropy_gradient(self, shape, dtype):
        softfast.cross_entropy_gradient(self.x, self.y)
