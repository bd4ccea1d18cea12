"""Distillation rules, one a file. To add one: its file, and its name in ``RULES``; the law tests cover every name."""
from dreamlab.rules.apfo import APFO
from dreamlab.rules.asd import ASD
from dreamlab.rules.base import Residual, Rule, distill
from dreamlab.rules.consistent3d import Consistent3D
from dreamlab.rules.csd import CSD
from dreamlab.rules.ism import ISM
from dreamlab.rules.lmc import LMCSDS
from dreamlab.rules.lods import LODS
from dreamlab.rules.nfsd import NFSD
from dreamlab.rules.operators import OPERATORS, LinearOperator, NoisyOperator
from dreamlab.rules.pfd import PFD
from dreamlab.rules.sdi import SDI
from dreamlab.rules.sds import SDS
from dreamlab.rules.ssd import SSD
from dreamlab.rules.ulite import ULite
from dreamlab.rules.vdm import VDM
from dreamlab.rules.vsd import VSD

RULES = ["SDS", "VSD", "VDM", "APFO", "CSD", "NFSD", "ISM", "ASD", "LODS", "LMCSDS", "SSD", "Consistent3D", "SDI", "PFD"]

__all__ = ["APFO", "ASD", "CSD", "Consistent3D", "ISM", "LMCSDS", "LODS", "LinearOperator", "NFSD", "NoisyOperator",
           "OPERATORS", "PFD", "RULES", "Residual", "Rule", "SDI", "SDS", "SSD", "ULite", "VDM", "VSD", "distill"]
