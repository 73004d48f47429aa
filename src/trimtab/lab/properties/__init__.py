"""Closed-form properties of losses, estimators and models, each measured as an error that must vanish."""

from __future__ import annotations

from trimtab.lab.properties import kl, objective, policy_gradient, preference, reward_model

PROPERTIES = [
    *objective.PROPERTIES,
    *preference.PROPERTIES,
    *reward_model.PROPERTIES,
    *kl.PROPERTIES,
    *policy_gradient.PROPERTIES,
]
"""All of them, in the order of their numbers."""
