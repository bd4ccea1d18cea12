"""Distillation rules, one a file. To add one: its file, and its name in ``RULES``; the law tests cover every name."""
from dreamlab.rules.base import Residual, Rule, distill
from dreamlab.rules.operators import LinearOperator, NoisyOperator, ULite
from dreamlab.rules.sds import SDS
from dreamlab.rules.vdm import VDM

RULES = ["SDS", "VDM"]

__all__ = ["RULES", "SDS", "VDM", "LinearOperator", "NoisyOperator", "Residual", "Rule", "ULite", "distill"]
