"""Probability-flow distillation (PFD), arXiv 2605.09071. Reconstructed from its abstract: no code or full text was at hand."""
from dataclasses import dataclass

from dreamlab.checks import Count
from dreamlab.noise import ddim_follow
from dreamlab.priors.base import Prior
from dreamlab.prompts import Prompt
from dreamlab.rules.sdi import SDI
from dreamlab.types import Sample, Steps


@dataclass
class PFD(SDI):
    """SDI whose target is not the posterior mean, one Euler step, but where the reverse flow from x_t ends, ``steps`` of them.

    With one step it is SDI. With many, and the same guidance both ways, target and x are the two ends of one path and the
    residual tends to 0: whatever the model can invert is left alone. That the abstract says; which guidance, steps and
    weights the authors use it does not, so these are SDI's, and ``steps`` is ours.
    """

    steps: Count = 4

    def target(self, prior: Prior, x_t: Sample, t: Steps, prompt: Prompt) -> Sample:
        """The clean end of ``steps`` guided DDIM steps, evenly spaced in t."""
        times = [t * (self.steps - i) // self.steps for i in range(self.steps)] + [t * 0 - 1]
        return ddim_follow(lambda x_k, k: prior.guided(x_k, k, prompt, self.guidance), x_t, prior.schedule, times)
