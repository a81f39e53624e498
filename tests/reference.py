"""The mathematics in plain NumPy and extended precision: the specification that the library is held to.

Rows i, classes k. Logits z_i = W x_i + b. Everything is written from the formulas and imports nothing of the library.
"""

import numpy as np

EXACT = np.longdouble


def logsumexp(z):
    """log sum_k exp(z_k) over the last axis."""
    m = z.max(axis=-1, keepdims=True)
    return (m + np.log(np.exp(z - m).sum(axis=-1, keepdims=True)))[..., 0]


def log_softmax(z):
    """z_k - logsumexp(z); at the maximum -log1p of the others' sum, so that nothing cancels."""
    z = np.asarray(z, dtype=EXACT)
    top = z.argmax(axis=-1)[..., None]
    distance = z - np.take_along_axis(z, top, -1)
    terms = np.exp(distance)
    np.put_along_axis(terms, top, 0, -1)
    return distance - np.log1p(terms.sum(axis=-1, keepdims=True))


def softmax(z):
    """exp(z_k) / sum_j exp(z_j)."""
    return np.exp(log_softmax(z))


def targets(y, n_classes):
    """One-hot rows of labels; probabilities as they are."""
    y = np.asarray(y)
    if y.ndim == 2:
        return y.astype(EXACT)
    q = np.zeros((len(y), n_classes), dtype=EXACT)
    q[np.arange(len(y)), y] = 1
    return q


def logits(X, coef, intercept, n_classes):
    """W x + b; with one row fewer than classes, class 0 is the reference class with logits 0."""
    z = X.astype(EXACT) @ coef.astype(EXACT).T + intercept.astype(EXACT)
    return np.hstack([np.zeros((len(X), n_classes - len(coef)), dtype=EXACT), z])


def cross_entropy(z, y, weight=None):
    """Losses of the rows, w_i sum_k q_ik (logsumexp(z_i) - z_ik), and their gradient by z."""
    z = np.asarray(z, dtype=EXACT)
    q = targets(y, z.shape[1])
    w = np.ones(len(z), dtype=EXACT) if weight is None else np.asarray(weight, dtype=EXACT)
    log_p = log_softmax(z) if len(z) else z
    losses = -(np.where(q == 0, 0, q * np.where(q == 0, 0, log_p))).sum(axis=1)
    return w * losses, w[:, None] * (q.sum(axis=1, keepdims=True) * np.exp(log_p) - q)


def loss_gradient(X, y, coef, intercept, weight=None, n_classes=None):
    """Sums over the rows: loss, R^T X and R^T 1 of the classes that have coefficients."""
    n_classes = n_classes or len(coef)
    losses, residual = cross_entropy(logits(X, coef, intercept, n_classes), y, weight)
    residual = residual[:, n_classes - len(coef) :]
    return losses.sum(), residual.T @ X.astype(EXACT), residual.sum(axis=0)


def objective(X, y, coef, intercept, penalty, weight=None, n_classes=None):
    """Weighted mean loss plus penalty/2 ||W||^2."""
    total = len(X) if weight is None else np.sum(weight)
    return loss_gradient(X, y, coef, intercept, weight, n_classes)[0] / total + penalty / 2 * np.sum(
        coef.astype(EXACT) ** 2
    )


def newton(X, y, n_classes, penalty, weight=None, fit_intercept=True):
    """The minimum of the objective by damped Newton steps: coef, intercept, value. For small problems."""
    n_outputs = 1 if n_classes == 2 else n_classes
    A = np.column_stack([X, np.ones(len(X))]).astype(EXACT) if fit_intercept else X.astype(EXACT)
    w = np.ones(len(X), dtype=EXACT) if weight is None else np.asarray(weight, dtype=EXACT)
    w = w / w.sum()
    q = targets(y, n_classes)[:, n_classes - n_outputs :]
    ridge = np.full(A.shape[1], penalty, dtype=EXACT)
    if fit_intercept:
        ridge[-1] = 0
    theta = np.zeros((n_outputs, A.shape[1]), dtype=EXACT)

    def parts(theta):
        p = softmax(np.hstack([np.zeros((len(A), n_classes - n_outputs)), A @ theta.T]))[:, n_classes - n_outputs :]
        gradient = (w[:, None] * (p - q)).T @ A + ridge * theta
        coef, intercept = (theta[:, :-1], theta[:, -1]) if fit_intercept else (theta, np.zeros(n_outputs))
        return p, gradient, objective(X, y, coef, intercept, penalty, weight, n_classes)

    p, gradient, value = parts(theta)
    for _ in range(200):
        hessian = np.zeros((n_outputs, A.shape[1], n_outputs, A.shape[1]))
        for k in range(n_outputs):
            for j in range(n_outputs):
                hessian[k, :, j] = (A * (w * p[:, k] * ((k == j) - p[:, j]))[:, None]).T @ A
            hessian[k, :, k] += np.diag(ridge)
        size = theta.size
        step = np.linalg.lstsq(hessian.reshape(size, size), gradient.astype(float).ravel(), rcond=1e-14)[0]
        length = 1.0
        while True:
            trial = theta - length * step.reshape(theta.shape)
            p, gradient, new = parts(trial)
            if new <= value or length < 1e-10:
                break
            length /= 2
        done = abs(new - value) <= 1e-17 * max(1, abs(value)) and length == 1.0
        theta, value = trial, min(new, value)
        if done or length < 1e-10:
            break
    return (theta[:, :-1], theta[:, -1], value) if fit_intercept else (theta, np.zeros(n_outputs), value)
