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


def logits(X, coef, intercept, n_classes, offset=None):
    """W x + b + o; with one row fewer than classes, class 0 is the reference class, whose logits are its offsets."""
    z = X.astype(EXACT) @ coef.astype(EXACT).T + intercept.astype(EXACT)
    z = np.hstack([np.zeros((len(X), n_classes - len(coef)), dtype=EXACT), z])
    return z if offset is None else z + np.asarray(offset, dtype=EXACT)


def cross_entropy(z, y, weight=None):
    """Losses of the rows, w_i sum_k q_ik (logsumexp(z_i) - z_ik), and their gradient by z."""
    z = np.asarray(z, dtype=EXACT)
    q = targets(y, z.shape[1])
    w = np.ones(len(z), dtype=EXACT) if weight is None else np.asarray(weight, dtype=EXACT)
    log_p = log_softmax(z) if len(z) else z
    losses = -(np.where(q == 0, 0, q * np.where(q == 0, 0, log_p))).sum(axis=1)
    return w * losses, w[:, None] * (q.sum(axis=1, keepdims=True) * np.exp(log_p) - q)


def loss_gradient(X, y, coef, intercept, weight=None, n_classes=None, offset=None):
    """Sums over the rows: loss, R^T X and R^T 1 of the classes that have coefficients."""
    n_classes = n_classes or len(coef)
    losses, residual = cross_entropy(logits(X, coef, intercept, n_classes, offset), y, weight)
    residual = residual[:, n_classes - len(coef) :]
    return losses.sum(), residual.T @ X.astype(EXACT), residual.sum(axis=0)


def hessian_vector(X, model, direction, n_classes, weight=None, offset=None):
    """Sums over the rows: R^T X and R^T 1, R_i = w_i (diag(p_i) - p_i p_i^T) d_i, d_i the direction's logits.

    `model` and `direction` are pairs (coefficients, intercepts).
    """
    p = softmax(logits(X, *model, n_classes, offset)) if len(X) else np.zeros((0, n_classes), dtype=EXACT)
    d = logits(X, *direction, n_classes)
    w = np.ones(len(X), dtype=EXACT) if weight is None else np.asarray(weight, dtype=EXACT)
    residual = (w[:, None] * p * (d - (p * d).sum(axis=1, keepdims=True)))[:, n_classes - len(model[0]) :]
    return residual.T @ X.astype(EXACT), residual.sum(axis=0)


def objective(X, y, coef, intercept, penalty, weight=None, n_classes=None, offset=None):
    """Weighted mean loss plus penalty/2 ||W||^2, and its gradients by W and b."""
    total = len(X) if weight is None else np.sum(weight)
    loss, grad_coef, grad_intercept = loss_gradient(X, y, coef, intercept, weight, n_classes, offset)
    coef = coef.astype(EXACT)
    return loss / total + penalty / 2 * np.sum(coef**2), grad_coef / total + penalty * coef, grad_intercept / total


def dual(X, y, t, penalty, weight=None, n_outputs=None, offset=None):
    """(1/S) sum_i s_i (H(t_i) + <t_i - q_i, o_i>) - ||T||^2 / (2 penalty), T = (1/S) sum_i s_i (t_i - q_i) x_i^T.

    H is the entropy. A lower bound of the objective for any probabilities t (n, K); with an intercept, which is not
    penalised, for those with sum_i s_i (t_i - q_i) = 0 only.
    """
    n_classes = t.shape[1]
    s = np.ones(len(X), dtype=EXACT) if weight is None else np.asarray(weight, dtype=EXACT)
    s = s / s.sum()
    entropy = -np.where(t > 0, t * np.log(np.where(t > 0, t, 1)), 0).sum(axis=1)
    moved = t - targets(y, n_classes)
    product = (s[:, None] * moved).T @ X.astype(EXACT)
    linear = 0 if offset is None else s @ (moved * offset).sum(axis=1)
    return s @ entropy + linear - np.sum(product[n_classes - (n_outputs or n_classes) :] ** 2) / (2 * penalty)


def newton(X, y, n_classes, penalty, weight=None, fit_intercept=True, offset=None):
    """The minimum of the objective by damped Newton steps with exact gradients: coef, intercept, value."""
    n_outputs, n_features = 1 if n_classes == 2 else n_classes, X.shape[1]
    A = np.column_stack([X, np.ones(len(X))]) if fit_intercept else X
    s = np.ones(len(X)) if weight is None else np.asarray(weight)
    theta = np.zeros((n_outputs, A.shape[1]), dtype=EXACT)

    def unpack(theta):
        return theta[:, :n_features], theta[:, n_features] if fit_intercept else np.zeros(n_outputs)

    def value_and_gradient(theta):
        value, grad_coef, grad_intercept = objective(X, y, *unpack(theta), penalty, weight, n_classes, offset)
        return value, np.column_stack([grad_coef, grad_intercept]) if fit_intercept else grad_coef

    value, gradient = value_and_gradient(theta)
    damping = 1e-3
    for _ in range(200):
        p = softmax(logits(X, *unpack(theta), n_classes, offset))[:, n_classes - n_outputs :].astype(float)
        hessian = np.zeros((*theta.shape, *theta.shape))
        for k in range(n_outputs):
            for j in range(n_outputs):
                hessian[k, :, j] = (A * (s / s.sum() * p[:, k] * ((k == j) - p[:, j]))[:, None]).T @ A
            hessian[k, range(n_features), k, range(n_features)] += penalty
        system = hessian.reshape(theta.size, theta.size)
        before, steepness = value, np.linalg.norm(gradient.astype(float))
        for _ in range(25):
            # The damping is what moves intercepts where offsets leave no curvature, and what makes the system regular:
            # without a reference class one vector added to every class changes nothing.
            damped = system + damping * np.eye(theta.size)
            trial = theta - np.linalg.solve(damped, gradient.astype(float).ravel()).reshape(theta.shape)
            if n_outputs > 1:
                trial -= trial.mean(axis=0)
            value, slope = value_and_gradient(trial)
            # Where the value has no more digits to lose, the gradient still has.
            flat = value <= before + 10 * np.finfo(EXACT).eps * abs(before)
            if value < before - 1e-15 or (flat and np.linalg.norm(slope.astype(float)) < steepness / 2):
                break
            damping *= 4
        else:
            return *unpack(theta), before
        theta, gradient, damping = trial, slope, max(damping / 8, 1e-13 * system.max())
    return *unpack(theta), value


def penalty_norms(coef, by_feature):
    """What the L1 part of the penalty adds up: absolute values, or the norms of the features' columns."""
    return np.sqrt((coef**2).sum(axis=0)) if by_feature else np.abs(coef)


def elastic_net(X, y, coef, intercept, penalty, l1_ratio, by_feature=False, weight=None, n_classes=None):
    """Weighted mean loss plus penalty (1 - l1_ratio)/2 ||W||^2 + penalty l1_ratio times the sum of the norms."""
    ridge = penalty * (1 - l1_ratio)
    l1 = penalty * l1_ratio * penalty_norms(coef.astype(EXACT), by_feature).sum()
    return objective(X, y, coef, intercept, ridge, weight, n_classes)[0] + l1


def proximal_gradient(X, y, n_classes, penalty, l1_ratio, by_feature=False, weight=None, fit_intercept=True):
    """The minimum of `elastic_net` by accelerated proximal gradient steps with restarts: coef, intercept, value."""
    n_outputs = 1 if n_classes == 2 else n_classes
    w = np.ones(len(X)) if weight is None else np.asarray(weight, dtype=float)
    w, q = w / w.sum(), targets(y, n_classes).astype(float)[:, n_classes - n_outputs :]
    mean = w @ X if fit_intercept else np.zeros(X.shape[1])
    centred = X - mean
    ridge, threshold = penalty * (1 - l1_ratio), penalty * l1_ratio
    # The Hessian of logsumexp is at most 1/2 in norm.
    bound = 0.5 * np.linalg.eigvalsh((centred * w[:, None]).T @ centred)[-1] + ridge
    steps = 1 / bound, 2.0

    def gradient(coef, intercept):
        z = np.hstack([np.zeros((len(X), n_classes - n_outputs)), centred @ coef.T + intercept])
        z = np.exp(z - z.max(axis=1, keepdims=True))
        residual = w[:, None] * (z / z.sum(axis=1, keepdims=True))[:, n_classes - n_outputs :] - w[:, None] * q
        return residual.T @ centred + ridge * coef, residual.sum(axis=0) * fit_intercept

    coef, intercept = np.zeros((n_outputs, X.shape[1])), np.zeros(n_outputs)
    ahead, ahead_intercept, momentum, still = coef, intercept, 1.0, 0
    for _ in range(100_000):
        slope, slope_intercept = gradient(ahead, ahead_intercept)
        trial = ahead - steps[0] * slope
        norms = penalty_norms(trial, by_feature)
        new = trial * np.where(norms > steps[0] * threshold, 1 - steps[0] * threshold / np.where(norms, norms, 1), 0)
        new_intercept = ahead_intercept - steps[1] * slope_intercept
        change, change_intercept = new - coef, new_intercept - intercept
        if np.vdot(ahead - new, change) + (ahead_intercept - new_intercept) @ change_intercept > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ratio, momentum = (momentum - 1) / following, following
        ahead, ahead_intercept = new + ratio * change, new_intercept + ratio * change_intercept
        coef, intercept = new, new_intercept
        largest = max(np.abs(change).max(), np.abs(change_intercept).max())
        still = still + 1 if largest <= 1e-15 * max(1, np.abs(coef).max(), np.abs(intercept).max()) else 0
        if still == 5:
            break
    intercept = intercept - coef @ mean
    value = elastic_net(X, y, coef, intercept, penalty, l1_ratio, by_feature, weight, n_classes)
    return coef, intercept, value
