"""Every claim of the paper, and of its workshop version, with its threshold.

All thresholds were written before any result was looked at. How a claim is judged is told in
`memjax.reporting.claims`: unless `opposite` says otherwise, a claim is contradicted by a difference
as large as the threshold in the other direction. "Doublings" are differences of base-2 logarithms.
"""

from functools import partial

from memjax.experiments import (
    capacity,
    figure01,
    figure02,
    figure03,
    figure04,
    figure05,
    figure06,
    figure09,
    figure10,
    figure11,
    noise_levels,
    norms,
    radii,
    sharpness,
)
from memjax.reporting.claims import Claim

_EXPONENTIAL = "0.5 is the Gini coefficient of exponential values, 1/3 of uniform ones (0 to max)"

_EASY_EXAMPLES = (
    Claim(
        name="figure01_real_not_binomial",
        figure="figure01",
        sentence="On real data, examples differ in difficulty far more than chance explains.",
        statistic="overdispersion of P(correct) on real data (1 if all are equally hard)",
        test=partial(figure01.measure_overdispersion, data="real"),
        threshold=4.0,
        opposite=2.0,
        why="four times the variance of chance is twice its spread: 'far more'",
    ),
    Claim(
        name="figure01_real_beyond_randx",
        figure="figure01",
        sentence="P(correct) is far more variable on real data than on random inputs.",
        statistic="doublings from the overdispersion of randX to that of real data",
        test=partial(figure01.measure_overdispersion_ratio, first="real", second="randX"),
        threshold=1.0,
        why="'far more' is at least twice",
    ),
    Claim(
        name="figure01_real_beyond_randy",
        figure="figure01",
        sentence="P(correct) is more variable on real data than on random labels.",
        statistic="doublings from the overdispersion of randY to that of real data",
        test=partial(figure01.measure_overdispersion_ratio, first="real", second="randY"),
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
    Claim(
        name="figure01_randy_beyond_randx",
        figure="figure01",
        sentence="P(correct) is more variable on random labels than on random inputs.",
        statistic="doublings from the overdispersion of randX to that of randY",
        test=partial(figure01.measure_overdispersion_ratio, first="randY", second="randX"),
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
    Claim(
        name="figure01_always_same",
        figure="figure01",
        sentence="On real data many examples are always classified correctly, or always wrongly.",
        statistic="share of real examples always right or always wrong, above that of chance",
        test=partial(figure01.measure_always_same, data="real"),
        threshold=0.1,
        opposite=0.01,
        why="'many' is at least one in ten beyond chance; fewer than one in a hundred is not",
    ),
    Claim(
        name="figure01_randx_binomial",
        figure="figure01",
        sentence="On random inputs P(correct) is close to binomial.",
        statistic="overdispersion of P(correct) on randX (1 if all are equally hard)",
        test=partial(figure01.measure_overdispersion, data="randX"),
        direction="below",
        threshold=1.5,
        opposite=2.0,
        why="less than half again the variance of chance is close; twice is not",
    ),
    Claim(
        name="figure01_randy_not_binomial",
        figure="figure01",
        sentence="On random labels P(correct) is not binomial: some patterns are shared.",
        statistic="overdispersion of P(correct) on randY (1 if all are equally hard)",
        test=partial(figure01.measure_overdispersion, data="randY"),
        threshold=2.0,
        opposite=1.5,
        why="the counterpart of 'close to binomial' on random inputs",
    ),
)

_FILTERS = (
    Claim(
        name="figure02_real_useful",
        figure="figure02",
        sentence="Training on real data gives filters that look useful.",
        statistic="Cliff's delta of roughness, initial over trained filters, real data",
        test=partial(figure02.measure_smoother, data="real"),
        threshold=0.33,
        why="0.33 is a medium effect by the usual convention (Romano et al. 2006)",
    ),
    Claim(
        name="figure02_randy_useful",
        figure="figure02",
        sentence="Filters learned on random labels still look useful.",
        statistic="Cliff's delta of roughness, initial over trained filters, randY",
        test=partial(figure02.measure_smoother, data="randY"),
        threshold=0.33,
        why="0.33 is a medium effect by the usual convention (Romano et al. 2006)",
    ),
    Claim(
        name="figure02_randy_keeps_half",
        figure="figure02",
        sentence="Filters learned on random labels are about as useful as those of real data.",
        statistic="Cliff's delta against the initial filters, randY minus half that of real data",
        test=figure02.measure_smoothness_kept,
        threshold=0.0,
        why="the margin is in the statistic: at least half of the effect is kept",
    ),
)

_SENSITIVITY = (
    Claim(
        name="figure03_class_labels",
        figure="figure03",
        sentence="Loss depends on a subset of the examples on real data, on nearly all on noise.",
        statistic="Gini coefficient of real data minus randX, class labels, mean over training",
        test=partial(figure03.measure_gini_difference, labels="class"),
        threshold=0.1,
        why="a tenth of the coefficient's range can be seen in a plot",
    ),
    Claim(
        name="figure03_unique_labels",
        figure="figure03",
        sentence="The same holds if every example is a class of its own.",
        statistic="Gini coefficient of real data minus randX, unique labels, mean over training",
        test=partial(figure03.measure_gini_difference, labels="unique"),
        threshold=0.1,
        why="a tenth of the coefficient's range can be seen in a plot",
    ),
    Claim(
        name="figure03_real_high",
        figure="figure03",
        sentence="On real data only a subset of the examples matters (high Gini coefficient).",
        statistic="Gini coefficient of real data, class labels, mean over training",
        test=partial(figure03.measure_gini, data="real", labels="class"),
        threshold=0.5,
        opposite=1 / 3,
        why=_EXPONENTIAL,
    ),
    Claim(
        name="figure03_noise_low",
        figure="figure03",
        sentence="On noise nearly all examples matter (low Gini coefficient).",
        statistic="Gini coefficient of randX, class labels, mean over training",
        test=partial(figure03.measure_gini, data="randX", labels="class"),
        direction="below",
        threshold=1 / 3,
        opposite=0.5,
        why=_EXPONENTIAL,
    ),
    *(
        Claim(
            name=f"norms_{norm}",
            figure="norms",
            sentence=f"The {norms.NORMS[norm]} of the loss-sensitivity gives similar results.",
            statistic=f"Gini coefficient ({norms.NORMS[norm]}) of real data minus randX",
            test=partial(norms.measure_gini_difference, norm=norm),
            threshold=0.1,
            why="the threshold of the l1 norm",
        )
        for norm in ("l2", "linf")
    ),
    *(
        Claim(
            name=f"figure04_diagonal_{data.lower()}",
            figure="figure04",
            sentence=f"Class by class, the diagonal dominates ({figure04.DATA[data]}).",
            statistic="doublings from the mean off-diagonal to the mean diagonal sensitivity",
            test=partial(figure04.measure_diagonal, data=data),
            threshold=0.58,
            why="0.58 doublings are half as much again",
        )
        for data in figure04.DATA
    ),
    Claim(
        name="figure04_shared_patterns",
        figure="figure04",
        sentence="Relative to the diagonal, off-diagonal cells are larger for real data: patterns "
        "are shared across classes.",
        statistic="doublings of off-diagonal over diagonal sensitivity, real data minus randX",
        test=figure04.measure_shared,
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
    Claim(
        name="figure04_off_diagonal",
        figure="figure04",
        sentence="Off-diagonal cells are larger for real data than for random data.",
        statistic="doublings from the mean off-diagonal sensitivity of randX to that of real data",
        test=figure04.measure_off_diagonal,
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
)

_CAPACITY = (
    Claim(
        name="figure05_real_near_maximum",
        figure="figure05",
        sentence="On real data performance is near its maximum at 4096 hidden units.",
        statistic="accuracy at the best width (as the other seeds place it) minus at the reference",
        test=figure05.measure_shortfall,
        direction="below",
        threshold=0.01,
        opposite=0.02,
        why="one point of accuracy is near, two are not",
    ),
    Claim(
        name="figure05_noise_needs_more",
        figure="figure05",
        sentence="Reaching the best performance takes more capacity when there is noise.",
        statistic="accuracy gained from capacity (largest width minus mean of the smaller ones), "
        "levels between 0 and 1 minus level 0",
        test=figure05.measure_noise_needs_more,
        threshold=0.01,
        why="one point of accuracy is more than the spread between seeds",
    ),
    Claim(
        name="capacity_cifar10_randx",
        figure="capacity",
        sentence="The same is seen on CIFAR-10 with random inputs.",
        statistic="accuracy gained from capacity, randX minus real data, CIFAR-10",
        test=partial(capacity.measure_gain_beyond_real, dataset="cifar10", kind="randX"),
        threshold=0.01,
        why="the threshold of figure 5",
    ),
    Claim(
        name="capacity_cifar10_randy",
        figure="capacity",
        sentence="There is no such relation on CIFAR-10 with random labels.",
        statistic="accuracy gained from capacity, randY minus real data, CIFAR-10",
        test=partial(capacity.measure_gain_beyond_real, dataset="cifar10", kind="randY"),
        direction="below",
        threshold=0.01,
        opposite=0.01,
        why="what would support the claim for random inputs contradicts this one",
    ),
    Claim(
        name="capacity_removed",
        figure="capacity",
        sentence="If the noise examples are left out instead, less capacity is needed.",
        statistic="accuracy gained from capacity, examples removed minus turned to noise, MNIST",
        test=partial(capacity.measure_removed, dataset="mnist"),
        direction="below",
        threshold=-0.01,
        why="the threshold of figure 5",
    ),
    Claim(
        name="capacity_removed_beyond_real",
        figure="capacity",
        sentence="Fewer real examples need less capacity than all of them.",
        statistic="accuracy gained from capacity, examples removed minus none removed, MNIST",
        test=partial(capacity.measure_gain_beyond_real, dataset="mnist", kind="removed"),
        direction="below",
        threshold=-0.01,
        why="the threshold of figure 5",
    ),
)

_TIME = (
    *(
        Claim(
            name=f"figure06_{panel}_{words}",
            figure="figure06",
            sentence=f"{change} slows the fit of {data}.",
            statistic=f"doublings of the epochs to fit, {ends}, {level}",
            test=partial(figure06.measure_slowing, panel=panel, noisy=noisy),
            threshold=0.32,
            why="0.32 doublings are a quarter more epochs",
        )
        for panel, change, ends in (
            ("capacity", "Less capacity", "largest to smallest width"),
            ("examples", "More data", "smallest to largest data set"),
        )
        for noisy, words, data, level in (
            (False, "real", "real data", "noise level 0"),
            (True, "noise", "noise", "the highest noise level"),
        )
    ),
    *(
        Claim(
            name=f"figure06_{panel}_noise_more",
            figure="figure06",
            sentence=f"{change} slows the fit of noise more than that of real data.",
            statistic=f"doublings of the epochs to fit, {ends}, highest noise level minus level 0",
            test=partial(figure06.measure_noise_slowed_more, panel=panel),
            threshold=0.32,
            why="0.32 doublings are a quarter more epochs",
        )
        for panel, change, ends in (
            ("capacity", "Less capacity", "largest to smallest width"),
            ("examples", "More data", "smallest to largest data set"),
        )
    ),
    Claim(
        name="figure06_diminishing_returns",
        figure="figure06",
        sentence="Returns of capacity diminish sooner on real data.",
        statistic="doublings of the epochs to fit, largest to middle width, highest noise level "
        "minus level 0",
        test=figure06.measure_remaining_return,
        threshold=0.14,
        why="0.14 doublings are a tenth more epochs; half of the widths give smaller differences",
    ),
    Claim(
        name="figure06_noise_later",
        figure="figure06",
        sentence="Random inputs take longer to fit than real data.",
        statistic="doublings of the epochs to fit, level 0 to highest, mean over widths",
        test=figure06.measure_later,
        threshold=0.32,
        why="0.32 doublings are a quarter more epochs",
    ),
    Claim(
        name="figure06_noise_sooner",
        figure="figure06",
        sentence="Random inputs are fitted sooner than real data.",
        statistic="doublings of the epochs to fit, level 0 to highest, mean over widths",
        test=figure06.measure_later,
        direction="below",
        threshold=-0.32,
        why="the mirror of the paper's claim: at most one of the two can be supported",
        source="workshop version",
    ),
)


def _complexity_claims(figure: str, network: str) -> tuple[Claim, ...]:
    """Returns the claims of figure 7 or 8, the same for both networks."""
    by_kind = (
        claim
        for kind, words in noise_levels.KINDS.items()
        for claim in (
            Claim(
                name=f"{figure}_csr_{kind.lower()}",
                figure=figure,
                sentence=f"{network}: the critical sample ratio is higher with more {words}.",
                statistic="rise of the final validation CSR (found by search), level 0 to 1",
                test=partial(noise_levels.measure_csr_rise, kind=kind),
                threshold=0.05,
                why="one example in twenty more is critical",
            ),
            Claim(
                name=f"{figure}_final_accuracy_{kind.lower()}",
                figure=figure,
                sentence=f"{network}: final validation accuracy is lower with more {words}.",
                statistic="rise of the final validation accuracy, level 0 to 1",
                test=partial(noise_levels.measure_final_accuracy_rise, kind=kind),
                direction="below",
                threshold=-0.02,
                why="two points of accuracy are more than the spread between seeds",
            ),
            Claim(
                name=f"{figure}_best_accuracy_{kind.lower()}",
                figure=figure,
                sentence=f"{network}: best validation accuracy is lower with more {words}.",
                statistic="rise of the best validation accuracy, level 0 to 1",
                test=partial(noise_levels.measure_best_accuracy_rise, kind=kind),
                direction="below",
                threshold=-0.02,
                why="two points of accuracy are more than the spread between seeds",
            ),
        )
    )
    return (
        *by_kind,
        Claim(
            name=f"{figure}_randy_peaks_early",
            figure=figure,
            sentence=f"{network}: with random labels validation accuracy peaks early.",
            statistic="share of training at which it peaks, highest randY level below 1",
            test=noise_levels.measure_peak_time,
            direction="below",
            threshold=0.5,
            opposite=0.5,
            why="early is in the first half of training",
        ),
        Claim(
            name=f"{figure}_randy_falls",
            figure=figure,
            sentence=f"{network}: with random labels validation accuracy falls after its peak.",
            statistic="validation accuracy at its peak (as the other seeds place it) minus at the "
            "end, highest randY level below 1",
            test=noise_levels.measure_fall_after_peak,
            threshold=0.02,
            opposite=0.01,
            why="two points are more than the spread between seeds; below one there is no fall",
        ),
        Claim(
            name=f"{figure}_randy_csr_rises_meanwhile",
            figure=figure,
            sentence=f"{network}: with random labels CSR rises while validation accuracy falls.",
            statistic="validation CSR at the end minus at the peak of validation accuracy",
            test=noise_levels.measure_csr_rise_after_peak,
            threshold=0.05,
            why="one example in twenty more is critical",
        ),
    )


_COMPLEXITY = (
    *_complexity_claims("figure07", "MLP on MNIST"),
    *_complexity_claims("figure08", "CNN on CIFAR-10"),
    *(
        Claim(
            name=f"figure09_{data.lower()}_beyond_real",
            figure="figure09",
            sentence=f"The critical sample ratio is far higher on {data} than on real data.",
            statistic=f"final validation CSR of {data} minus that of real data",
            test=partial(figure09.measure_beyond_real, data=data),
            threshold=0.1,
            why="'far higher': one example in ten more is critical",
        )
        for data in ("randX", "randY")
    ),
    Claim(
        name="figure09_rises",
        figure="figure09",
        sentence="Validation CSR rises in training.",
        statistic="validation CSR at the end minus at the first measurement, mean over data sets",
        test=figure09.measure_rise,
        threshold=0.05,
        why="one example in twenty more is critical",
    ),
    Claim(
        name="figure09_levels_off",
        figure="figure09",
        sentence="The rise of validation CSR levels off.",
        statistic="rise in the second half of training minus that in the first",
        test=figure09.measure_levelling,
        direction="below",
        threshold=-0.05,
        why="one example in twenty fewer becomes critical",
    ),
    Claim(
        name="figure09_training_rises",
        figure="figure09",
        sentence="Training-set CSR rises at first (footnote).",
        statistic="training CSR at its peak (as the other seeds place it) minus at first",
        test=figure09.measure_training_rise,
        threshold=0.02,
        opposite=0.01,
        why="one example in fifty; below one in a hundred there is no rise",
    ),
    Claim(
        name="figure09_training_falls",
        figure="figure09",
        sentence="Training-set CSR falls afterwards (footnote).",
        statistic="training CSR at its peak (as the other seeds place it) minus at the end",
        test=figure09.measure_training_fall,
        threshold=0.02,
        opposite=0.01,
        why="one example in fifty; below one in a hundred there is no fall",
    ),
    *(
        Claim(
            name=f"radii_{data.lower()}_beyond_real",
            figure="radii",
            sentence=f"CSR is higher on {data} than on real data at other radii too.",
            statistic=f"final validation CSR of {data} minus real data, mean over radii",
            test=partial(radii.measure_beyond_real, data=data),
            threshold=0.05,
            why="one example in twenty more; at the largest and smallest radii all are alike",
        )
        for data in ("randX", "randY")
    ),
    *(
        Claim(
            name=f"sharpness_{kind.lower()}",
            figure="sharpness",
            sentence=f"Sharpness rises with noise: {sharpness.KINDS[kind]}.",
            statistic="doublings of the largest |eigenvalue| of the Hessian, level 0 to 1",
            test=partial(sharpness.measure_rise, kind=kind),
            threshold=1.0,
            why="from no noise to nothing but noise it at least doubles",
            source="workshop version",
        )
        for kind in sharpness.KINDS
    ),
)

_CAPPED = "training accuracy on randY taken away, minus 10 times what real validation loses"
_REGULARIZERS = (
    Claim(
        name="figure10_dropout_caps",
        figure="figure10",
        sentence="Dropout caps memorization at no cost for real data.",
        statistic=f"{_CAPPED}, dropout",
        test=partial(figure10.measure_capped, technique="dropout"),
        threshold=0.2,
        opposite=0.05,
        why="a fifth of the examples is a cap; one in twenty is none",
    ),
    Claim(
        name="figure10_dropout_best",
        figure="figure10",
        sentence="Of the single techniques dropout is best.",
        statistic=f"{_CAPPED}, dropout minus the best other single technique",
        test=partial(figure10.measure_beyond_others, technique="dropout", rivals="single"),
        threshold=0.05,
        why="one example in twenty",
    ),
    Claim(
        name="figure10_adversarial_best",
        figure="figure10",
        sentence="Dropout with adversarial training is best of all.",
        statistic=f"{_CAPPED}, dropout + adversarial minus the best other technique",
        test=partial(
            figure10.measure_beyond_others, technique="dropout + adversarial", rivals="all"
        ),
        threshold=0.05,
        why="one example in twenty",
    ),
    Claim(
        name="figure11_order_differs",
        figure="figure11",
        sentence="The vertical order of the training losses differs between randY and real data.",
        statistic="the smaller of the two opposite differences, in doublings of the training loss, "
        "of the pair of settings that the other seeds reverse most",
        test=figure11.measure_reversal,
        threshold=0.1,
        why="0.1 doublings are 7 % of the loss, a gap that can be seen in a plot",
    ),
)

CLAIMS: tuple[Claim, ...] = (
    *_EASY_EXAMPLES,
    *_FILTERS,
    *_SENSITIVITY,
    *_CAPACITY,
    *_TIME,
    *_COMPLEXITY,
    *_REGULARIZERS,
)
