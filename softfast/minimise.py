"""The way to the minimum: a solver, where it begins, and what takes over where it takes long."""

from collections.abc import Callable

from softfast.balance import Balance
from softfast.objective import Point, SoftmaxObjective
from softfast.sampled_start import interior_start, sampled_start
from softfast.solvers.iteration import Status
from softfast.solvers.lbfgs import lbfgs
from softfast.solvers.newton_cg import newton_cg
from softfast.solvers.proximal_newton import proximal_newton

# Iterations over all rows that L-BFGS has before an interior point is tried. 20,000 and 45,000 rows of raw network
# connections, too few for a sample to begin with, had gaps of 6e3 and 6e4 after 400 iterations and some 900 passes;
# with it they converge after 421 and 447. Where L-BFGS is on its way it only costs: no fit of seven data sets, C from
# 1e-4 to 1e8, that reached a gap of 1e-6 took more than 165.
_PATIENCE = 200


def minimise(
    objective: SoftmaxObjective,
    start: Point,
    stop: Callable[[Point], bool],
    *,
    solver: str,
    with_l1: bool,
    from_zero: bool,
    tol: float,
    max_iter: int,
) -> tuple[Point, int, Status]:
    """The last point of the chosen solver, the number of its iterations and why they ended.

    `stop` is told each iterate; from_zero: nothing is known of the minimum, and `start` is none to keep to.
    """
    if with_l1:
        return proximal_newton(
            objective,
            start,
            groups=objective.groups(),
            curvature=objective.curvature,
            limits=objective.active_limits,
            max_iter=max_iter,
            stop=stop,
        )
    if solver == "newton-cg":
        return newton_cg(
            objective,
            start,
            hessian_vector=objective.hessian_vector,
            max_iter=max_iter,
            stop=stop,
            metric=objective.metric,
        )
    automatic = solver == "auto"
    refine = Balance(objective, tol, single=automatic)

    def descend(begin: Point, n_iter: int) -> tuple[Point, int, Status]:
        return lbfgs(
            objective,
            begin,
            max_iter=n_iter,
            stop=stop,
            metric=objective.metric,
            refine=refine,
            n_threads=objective.vector_threads,
        )

    patience = _PATIENCE if automatic and objective.has_interior_minimum else max_iter
    if automatic and from_zero:
        start, settled = sampled_start(objective, start)
        patience = patience if settled else 0
    point, n_iter, status = descend(start, min(patience, max_iter))
    if status == "max_iter" and n_iter < max_iter:
        point, more, status = descend(interior_start(objective, point, stop), max_iter - n_iter)
        n_iter += more
    return objective.precise(point), n_iter, status
