"""Where to begin: near the minimum of the objective's estimate from a sample of the rows.

Most iterations of a fit from zero find out what a tenth of the rows tell as well, at a tenth of the cost (Byrd, Chin,
Nocedal and Wu 2012).  Passes in all, those over the sample counted in part, without and with it: covtype standardised
41 and 17, as it is 45 and 20; diamonds 31 and 25; shuttle 113 and 76.
"""

from collections.abc import Callable

import numpy as np

from softfast.objective import Point, SoftmaxObjective
from softfast.solvers.lbfgs import lbfgs

# The sample is done with when its objective falls by less than this over so many iterations, relative; what is left is
# in the order of the sample's own error.
_FALL, _ITERATIONS = 1e-2, 5
# Classes that the sample separates may let it fall for ever.
_MAX_ITER = 100
# Where the interior point can take over, it does after so many iterations: where L-BFGS makes progress it has settled
# before, shuttle after 36 to 38. On raw network connections, 494,021 x 118 and 23 classes, where it stops after 49,
# a fit to a gap of 1e-6 took 37 passes; without the interior point the gap was 1e7 after 228.
_ENOUGH = 45
# Rows of its samples, no fewer than these, nor than this many a coefficient; residuals from which rows are in one, and
# how many rows these may bring at most.
_ROWS, _ROWS_A_COEFFICIENT, _HARD, _MOST_HARD = 5000, 3, 0.02, 30_000
# Rounds of the interior point; by how many times the objective may exceed the sample's, relative, for a warm start, and
# for the last round; m of a warm start at least, and the tolerances of cold and warm ones, in units of the objective.
_ROUNDS, _WARM, _LAST = 8, 1.5, 1.001
_CENTRING, _COARSE, _FINE = 0.03, 1e-2, 1e-5


def sampled_start(objective: SoftmaxObjective, start: Point) -> tuple[Point, bool]:
    """A point near the minimum over a sample, or `start` where rows are few or no better point was found.

    And whether L-BFGS settled there; if not, `interior_start` should be tried.
    """
    sample = objective.on_sample()
    if sample is None:
        return start, True
    part, share = sample
    values: list[float] = []

    def settled(point: Point) -> bool:
        values.append(point.value)
        return len(values) > _ITERATIONS and values[-1 - _ITERATIONS] - values[-1] < _FALL * values[-1]

    begin = part(part.pack(*objective.unpack(start.x)))
    max_iter = _ENOUGH if objective.has_interior_minimum else _MAX_ITER
    point, _, status = lbfgs(part, begin, max_iter=max_iter, stop=settled, metric=part.metric)
    objective.n_passes += share * part.n_passes
    found = objective(objective.pack(*part.unpack(point.x)))
    if found.value < start.value:
        # The first metrics, made for points far from the minimum, are behind.
        objective.even_share, start = part.even_share, found
    return start, status != "max_iter" or not objective.has_interior_minimum


def interior_start(objective: SoftmaxObjective, start: Point, stop: Callable[[Point], bool]) -> Point:
    """A point near the minimum, from interior points over samples; `start` where no better one was found.

    The rows that matter are few and far from the mean, and a sample misses most of them. So each round's sample has the
    rows that the points so far get wrong, until the objective is what the sample says: cutting planes, but for the
    weights of the rows.

    `stop` hears of the best point so far between the rounds, and may end them.
    """
    points: list[Point] = []
    best, value = start, 0.0
    for _ in range(_ROUNDS):
        if points and stop(best):
            break
        # The residuals of all rows are no more than the mean loss, n times.
        certain = max(_HARD, value * objective.moments.n_rows / _MOST_HARD)
        objective.take_hard_rows(points, max(_ROWS, _ROWS_A_COEFFICIENT * len(start.x)), certain)
        warm = bool(points) and points[-1].value <= _WARM * value
        try:
            if warm:
                centring = max(_CENTRING * points[-1].value, points[-1].value - value)
                x, value = objective.interior_minimum(points[-1], centring=centring, tol=_FINE)
            else:
                x, value = objective.interior_minimum(tol=_COARSE)
        except np.linalg.LinAlgError:
            break
        if not value <= _WARM * start.value:
            # The minimum of the estimate can't be so far above: the method has failed.
            break
        points.append(objective(x))
        best = min(best, points[-1], key=lambda point: point.value)
        if warm and points[-1].value <= _LAST * value:
            break
    if best is start:
        objective.drop_hard_rows()
    return best
