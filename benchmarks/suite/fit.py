"""Fits and predictions: time and memory beside what was reached, so that stopping early can't look like speed."""

import warnings

from sklearn.datasets import load_digits, load_iris

from softfast import SoftmaxRegression

from .common import sampled_labels, sparse_classification

PROBLEMS = {
    "iris": lambda: load_iris(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
    "50000x30 K=5 badly scaled": lambda: sampled_labels(50_000, 30, 5),
    "2000x20000 K=20 CSR": lambda: sparse_classification(2_000, 20_000, 20, 60)[:2],
}


class Fit:
    params = (list(PROBLEMS), [1.0, 1e4])
    param_names = ("problem", "C")

    def setup(self, problem, C):
        if "CSR" in problem and C > 1:
            raise NotImplementedError("forty seconds a fit")
        warnings.simplefilter("ignore")
        self.X, self.y = PROBLEMS[problem]()
        self.model = SoftmaxRegression(C=C)

    def time_fit(self, problem, C):
        self.model.fit(self.X, self.y)

    def peakmem_fit(self, problem, C):
        self.model.fit(self.X, self.y)

    def track_passes(self, problem, C):
        return self.model.fit(self.X, self.y).n_passes_

    def track_objective(self, problem, C):
        return self.model.fit(self.X, self.y).objective_

    def track_duality_gap(self, problem, C):
        return self.model.fit(self.X, self.y).duality_gap_


class Predict:
    params = ([1, 100, 100_000], ["float32", "float64"])
    param_names = ("rows", "dtype")

    def setup(self, rows, dtype):
        X, y = sampled_labels(100_000, 54, 7, dtype)
        self.model = SoftmaxRegression(C=1e-3).fit(X[:2000], y[:2000])
        self.X = X[:rows]

    def time_predict_proba(self, rows, dtype):
        self.model.predict_proba(self.X)

    def time_predict(self, rows, dtype):
        self.model.predict(self.X)
