"""KV blocks between device and host: who holds them, what is copied when, and how a preempted request comes back.

Plans only; engine and simulator carry them out. docs/blocks.md has the rules and their derivations.
"""

from proserve_core.blocks.copy_budget import allot, ranked_budget, unlimited
from proserve_core.blocks.gain_budget import GainBudget, Return, gain_budget
from proserve_core.blocks.holding import Copy, Eviction, Holding, LedgerError
from proserve_core.blocks.kv_layout import KV_LAYOUTS, KvLayout
from proserve_core.blocks.ledger import BlockLedger
from proserve_core.blocks.offload import (
    Offload,
    OffloadCandidate,
    OffloadCosts,
    copy_worth,
    offload_threshold,
    plan_offloads,
)
from proserve_core.blocks.preemption_risk import (
    BlockDemand,
    DemandRate,
    RiskLevel,
    chance_within,
    preemption_probability,
)
from proserve_core.blocks.restore import Overlap, Reload, Restorable, ResumeModel, Split, best_split
from proserve_core.blocks.transfer import TRANSFERS, CopyCosts, Direction, LinkModel, TransferModel
from proserve_core.blocks.transfer_fit import OnlineTransfer
from proserve_core.blocks.victims import VictimCandidate, Victims, choose_victims, preemption_loss

__all__ = [
    "KV_LAYOUTS",
    "TRANSFERS",
    "BlockDemand",
    "BlockLedger",
    "Copy",
    "CopyCosts",
    "DemandRate",
    "Direction",
    "Eviction",
    "GainBudget",
    "Holding",
    "KvLayout",
    "LedgerError",
    "LinkModel",
    "Offload",
    "OffloadCandidate",
    "OffloadCosts",
    "OnlineTransfer",
    "Overlap",
    "Reload",
    "Restorable",
    "ResumeModel",
    "Return",
    "RiskLevel",
    "Split",
    "TransferModel",
    "VictimCandidate",
    "Victims",
    "allot",
    "best_split",
    "chance_within",
    "choose_victims",
    "copy_worth",
    "gain_budget",
    "offload_threshold",
    "plan_offloads",
    "preemption_loss",
    "preemption_probability",
    "ranked_budget",
    "unlimited",
]
