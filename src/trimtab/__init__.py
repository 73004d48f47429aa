"""trimtab steers language models with human preferences: RLHF with PPO, DPO, and their comparison."""

__version__ = "0.1.0"
