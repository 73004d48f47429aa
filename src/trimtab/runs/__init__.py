"""Run folders: metrics, checkpoints, lineage, the model card."""
