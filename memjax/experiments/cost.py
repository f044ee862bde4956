"""What a reproduction costs, before it is run."""

from collections.abc import Iterable, Iterator

from memjax.experiments.studies import Study
from memjax.runtime.progress import duration
from memjax.sweeps.cost import seconds_per_step
from memjax.sweeps.plan import make_plan
from memjax.sweeps.points import Sweep


def describe_cost(studies: Iterable[Study]) -> Iterator[str]:
    """Yields a line for each study and one for all: runs, FLOPs, and time on this machine.

    The time is that of training and evaluating every epoch, from a few steps of each study's
    costliest runs; the passes over the checkpoints are not in it.
    """
    total_flops = total_seconds = 0.0
    for study in studies:
        plan = make_plan(Sweep(study.points, study.configs, None))
        costs = plan.costs
        costliest = max(plan.groups, key=lambda group: costs[group.points[0]].work)
        first = costliest.points[0]
        step = seconds_per_step(costliest, plan.configs[first], plan.datasets[first])
        num_steps = costs[first].num_steps * plan.configs[first].ensemble.size
        seconds = step * num_steps / costs[first].work * sum(cost.work for cost in costs)
        flops = sum(cost.flops for cost in costs)
        total_flops, total_seconds = total_flops + flops, total_seconds + seconds
        runs = sum(config.ensemble.size for config in plan.configs)
        yield f"{study.name:<15} {runs:>5} runs  {flops:.2e} FLOPs  about {duration(seconds)}"
    yield (
        f"{'in all':<15} {'':>5}       {total_flops:.2e} FLOPs  about {duration(total_seconds)} of "
        "training on this machine, if no run stops early; analysis comes on top"
    )
