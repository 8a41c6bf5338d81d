"""Training of shared equilibria and their calibration to targets (Vadori et al., 2020).

Public names are listed in `__all__`. The modules go further: `types` is the table of contents,
`self_play` trains at one profile, `shared_game` measures epsilon, `uncertainty` says how far a
calibrated profile can be believed, and `theory` checks the paper's propositions on examples.
"""

from calsheq_jax.calibration import calibrate
from calsheq_jax.calibrator import Config as CalibratorConfig
from calsheq_jax.calsheq import Config
from calsheq_jax.experiments import Experiment
from calsheq_jax.observed import Observed
from calsheq_jax.policy import Config as PolicyConfig
from calsheq_jax.ppo import Config as PPOConfig
from calsheq_jax.problem import Problem, Space, space
from calsheq_jax.result import Calibration
from calsheq_jax.schedules import Schedule
from calsheq_jax.shared_game import Certificate, Estimate, certify
from calsheq_jax.simulated import Config as SimulatedConfig
from calsheq_jax.targets import Target, vector_targets
from calsheq_jax.types import Agent, Policy
from calsheq_jax.uncertainty_report import Uncertainty

__all__ = (
    "Agent",
    "Calibration",
    "CalibratorConfig",
    "Certificate",
    "Config",
    "Estimate",
    "Experiment",
    "Observed",
    "PPOConfig",
    "Policy",
    "PolicyConfig",
    "Problem",
    "Schedule",
    "SimulatedConfig",
    "Space",
    "Target",
    "Uncertainty",
    "calibrate",
    "certify",
    "space",
    "vector_targets",
)
