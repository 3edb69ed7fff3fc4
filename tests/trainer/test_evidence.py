"""What stands beside the coarse distance: silent until calibrated, then in its unit."""

import pytest
import torch

from agp_edge.trainer.evidence import Evidence


class Plain(Evidence):
    """Tokens of one channel are the map."""

    def raw(self, tokens):
        return tokens.reshape(-1, 1, *self.grid)


@pytest.mark.parametrize("centred", [True, False])
def test_calibration_weighs_standard_deviations(centred):
    torch.manual_seed(0)
    tokens, coarse = 3.0 + 2.0 * torch.randn(40, 64, 1), 0.7 + 0.2 * torch.randn(40, 1, 4, 4)
    evidence = Plain((8, 8), position=False, centred=centred)
    assert torch.equal(evidence(tokens), torch.zeros(40, 1, 8, 8))
    evidence.calibrate(evidence.raw(tokens), coarse, 0.5)
    found = evidence(tokens)
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(found.std()) == pytest.approx(0.5 * float(coarse.std()), rel=0.02)


def test_centred_evidence_does_not_see_a_level():
    torch.manual_seed(0)
    tokens = torch.randn(20, 64, 1)
    for centred in (True, False):
        evidence = Plain((8, 8), position=True, centred=centred)
        evidence.calibrate(evidence.raw(tokens), 3.0 * torch.randn(20, 1, 4, 4), 0.5)
        lifted = evidence(tokens + 2.0) - evidence(tokens)
        assert float(lifted.mean()) == pytest.approx(0.0 if centred else 3.0, abs=0.3)
