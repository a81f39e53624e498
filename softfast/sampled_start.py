"""Where to begin: near the minimum of the objective's estimate from a sample of the rows.

Most iterations of a fit from zero find out what a tenth of the rows tell as well, at a tenth of the cost (Byrd, Chin,
Nocedal and Wu 2012).  Passes in all, those over the sample counted in part, without and with it: covtype standardised
41 and 17, as it is 45 and 20; diamonds 31 and 25; shuttle 113 and 76.
"""

from softfast.objective import Point, SoftmaxObjective
from softfast.solvers.lbfgs import lbfgs

# The sample is done with when its objective falls by less than this over so many iterations, relative; what is left is
# in the order of the sample's own error.
_FALL, _ITERATIONS = 1e-2, 5
# Classes that the sample separates may let it fall for ever.
_MAX_ITER = 100


def sampled_start(objective: SoftmaxObjective, start: Point) -> Point:
    """A point near the minimum over a sample, or `start` where rows are few or no better point was found."""
    sample = objective.on_sample()
    if sample is None:
        return start
    part, share = sample
    values: list[float] = []

    def settled(point: Point) -> bool:
        values.append(point.value)
        return len(values) > _ITERATIONS and values[-1 - _ITERATIONS] - values[-1] < _FALL * values[-1]

    begin = part(part.pack(*objective.unpack(start.x)))
    point, _, _ = lbfgs(part, begin, max_iter=_MAX_ITER, stop=settled, metric=part.metric)
    objective.n_passes += share * part.n_passes
    found = objective(objective.pack(*part.unpack(point.x)))
    if found.value >= start.value:
        return start
    # The first metrics, made for points far from the minimum, are behind.
    objective.even_share = part.even_share
    return found
