import pytest

from memjax.experiments.scales import DROPOUT_AND_ADVERSARIAL, DROPOUT_JUDGED_AT, SCALES


@pytest.mark.parametrize("scale", sorted(SCALES.keys() - {"smoke"}))
def test_dropout_is_trained_at_the_strength_that_it_is_judged_at(scale):
    """A primary claim about a strength that no run has can never be decided."""
    strengths = dict(SCALES[scale]["regularizers"].strengths)
    assert DROPOUT_JUDGED_AT in strengths["dropout"]


@pytest.mark.parametrize("scale", ["workstation", "paper"])
def test_every_technique_has_at_least_five_settings(scale):
    sizes = SCALES[scale]["regularizers"]
    for technique, strengths in sizes.strengths:
        is_adversarial = technique == DROPOUT_AND_ADVERSARIAL
        weights = len(sizes.adversarial_weights) if is_adversarial else 1
        assert len(strengths) * weights >= 5, technique
