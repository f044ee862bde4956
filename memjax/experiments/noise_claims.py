"""The claims of figures 7 and 8, the same of an MLP on MNIST and of a CNN on CIFAR-10."""

from functools import partial

from memjax.experiments import fit, kinds, noise_measures as measures
from memjax.reporting.claims import Claim

# One of the two kinds each, and the other in the other figure: a dozen primary claims in all.
PRIMARY = (("figure07", kinds.RANDX), ("figure08", kinds.RANDY))


def claims(figure: str, network: str) -> tuple[Claim, ...]:
    """Returns the claims of figure 7 or 8, the same for both networks."""
    claim = partial(Claim, figure=figure)
    by_kind = (
        made
        for kind, words in kinds.NOISE.items()
        for claims_of in (_boundary_claims, _accuracy_claims)
        for made in claims_of(figure, network, kind, words)
    )
    own_kind = claim(
        name=f"{figure}_radius_own_noise",
        sentence=f"{network}: after randX the boundaries are nearer to images of the kind that the "
        "network was trained on than after real data.",
        statistic="doublings of the median critical radius, real networks and validation images to "
        "those of the highest randX level and held-out noise images, at the end",
        test=measures.measure_own_noise,
        direction="below",
        threshold=-0.5,
        why="0.5 doublings: nearly a third nearer",
        gate=fit.gate_beside_real(kinds.RANDX),
    )
    return (*by_kind, own_kind, *_order_claims(figure, network))


def _boundary_claims(figure: str, network: str, kind: str, words: str) -> tuple[Claim, ...]:
    """Returns the claims on how near the decision boundaries are, of one kind of noise."""
    claim = partial(Claim, figure=figure)
    return (
        claim(
            name=f"{figure}_radius_{kind.lower()}",
            sentence=f"{network}: the decision boundaries are nearer with more {words}.",
            statistic="doublings of the median critical radius of validation images at the end "
            "of training, level 0 to 1",
            test=partial(measures.measure_radius_rise, kind=kind),
            direction="below",
            threshold=-0.5,
            why="0.5 doublings: nearly a third nearer with nothing but noise than with none",
            primary=(figure, kind) in PRIMARY,
            gate=fit.gate_beside_real(kind),
        ),
        claim(
            name=f"{figure}_radius_training_{kind.lower()}",
            sentence=f"{network}: they are nearer to training images, too, with more {words}.",
            statistic="doublings of the median critical radius of training images at the end "
            "of training, level 0 to 1",
            test=partial(measures.measure_radius_rise, kind=kind, column="train_median_radius"),
            direction="below",
            threshold=-0.5,
            why="0.5 doublings: nearly a third nearer with nothing but noise than with none",
            gate=fit.gate_beside_real(kind),
        ),
        claim(
            name=f"{figure}_csr_{kind.lower()}",
            sentence=f"{network}: the critical sample ratio is higher with more {words}.",
            statistic="rise of the final validation CSR (found by search), level 0 to 1",
            test=partial(measures.measure_csr_rise, kind=kind),
            threshold=0.05,
            why="one example in twenty more is critical",
            gate=fit.gate_beside_real(kind),
        ),
        claim(
            name=f"{figure}_csr_lass_{kind.lower()}",
            sentence=f"{network}: by LASS alone, too, CSR is higher with more {words}.",
            statistic="rise of the final validation CSR that LASS finds, level 0 to 1",
            test=partial(measures.measure_csr_rise, kind=kind, column="csr_lass"),
            threshold=0.05,
            why="one example in twenty more is critical",
            gate=fit.gate_beside_real(kind),
        ),
        claim(
            name=f"{figure}_csr_monotone_{kind.lower()}",
            sentence=f"{network}: the critical sample ratio rises level by level of {words}.",
            statistic="Kendall's tau of final validation CSR and level, mean over seeds",
            test=partial(measures.measure_monotone, kind=kind),
            threshold=0.5,
            opposite=0.0,
            why="0.5: three of four pairs of levels are in order; 0 is no order",
            gate=fit.gate_beside_real(kind),
        ),
        claim(
            name=f"{figure}_csr_matched_{kind.lower()}",
            sentence=f"{network}: at equal training accuracy CSR is higher on {words}.",
            statistic="validation CSR of the highest level minus that of real data, each where "
            f"{measures.MATCHED:.0%} of its training examples are first right",
            test=partial(measures.measure_csr_matched, kind=kind),
            threshold=0.05,
            why="one example in twenty more is critical",
        ),
    )


def _accuracy_claims(figure: str, network: str, kind: str, words: str) -> tuple[Claim, ...]:
    """Returns the claims on what is right in the end, and at best, of one kind of noise."""
    claim = partial(Claim, figure=figure)
    return (
        claim(
            name=f"{figure}_fits_{kind.lower()}",
            sentence=f"{network}: the networks fit {words}.",
            statistic="final training accuracy at the highest level",
            test=partial(measures.measure_fitted, kind=kind),
            threshold=fit.FITTED,
            opposite=0.9,
            why="99 % is the gate of the other claims; below 90 % they do not fit",
            primary=figure == "figure07",
        ),
        claim(
            name=f"{figure}_final_accuracy_{kind.lower()}",
            sentence=f"{network}: final validation accuracy is lower with more {words}.",
            statistic="rise of the final validation accuracy, level 0 to 1",
            test=partial(measures.measure_final_accuracy_rise, kind=kind),
            direction="below",
            threshold=-0.02,
            why="two points of accuracy are more than the spread between seeds",
            gate=fit.gate_beside_real(kind),
        ),
        claim(
            name=f"{figure}_best_accuracy_{kind.lower()}",
            sentence=f"{network}: best validation accuracy is lower with more {words}.",
            statistic="rise of the best validation accuracy, level 0 to 1",
            test=partial(measures.measure_best_accuracy_rise, kind=kind),
            direction="below",
            threshold=-0.02,
            why="two points of accuracy are more than the spread between seeds",
        ),
    )


def _order_claims(figure: str, network: str) -> tuple[Claim, ...]:
    """Returns the claims on what comes first, all at the highest level of randY below 1."""
    claim = partial(Claim, figure=figure)
    return (
        claim(
            name=f"{figure}_patterns_first",
            sentence=f"{network}: patterns are learned before noise is memorized.",
            statistic="doublings from the epochs in which half of the clean training examples are "
            "right to those for half of the wrong labels, highest randY level",
            test=measures.measure_clean_first,
            threshold=1.0,
            why="the wrong labels take at least twice as long",
            primary=figure == "figure07",
        ),
        claim(
            name=f"{figure}_true_label_first",
            sentence=f"{network}: wrong labels are first predicted as the true class.",
            statistic="share of the wrong labels predicted as the true class minus as the label, "
            "where clean and wrong are told apart best in training, highest randY level",
            test=measures.measure_true_first,
            threshold=0.2,
            why="one in five more: the pattern is stronger than the label",
        ),
        claim(
            name=f"{figure}_randy_takes_longer",
            sentence=f"{network}: random labels take longer to fit than real data.",
            statistic="doublings of the epochs to 99 % training accuracy, real data to the "
            "highest level of randY",
            test=measures.measure_randy_later,
            threshold=0.32,
            why="0.32 doublings are a quarter more epochs",
        ),
        claim(
            name=f"{figure}_randy_peaks_early",
            sentence=f"{network}: with random labels validation accuracy peaks early.",
            statistic="share of training at which it peaks, highest randY level below 1",
            test=measures.measure_peak_time,
            direction="below",
            threshold=0.5,
            opposite=0.5,
            why="early is in the first half of training",
            gate=fit.gate_beside_real(kinds.RANDY),
        ),
        claim(
            name=f"{figure}_randy_falls",
            sentence=f"{network}: with random labels validation accuracy falls after its peak.",
            statistic="validation accuracy where clean and wrong are told apart best in training, "
            "minus at the end, highest randY level below 1",
            test=measures.measure_fall,
            threshold=0.02,
            opposite=0.01,
            why="two points are more than the spread between seeds; below one there is no fall",
            gate=fit.gate_beside_real(kinds.RANDY),
        ),
        claim(
            name=f"{figure}_randy_csr_rises_meanwhile",
            sentence=f"{network}: with random labels CSR rises while validation accuracy falls.",
            statistic="validation CSR at the end minus where clean and wrong are told apart best",
            test=measures.measure_csr_rise_meanwhile,
            threshold=0.05,
            why="one example in twenty more is critical",
            gate=fit.gate_beside_real(kinds.RANDY),
        ),
    )
