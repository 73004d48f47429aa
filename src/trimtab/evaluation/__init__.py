"""How good answers and reward models are: closeness to what people wrote, and RewardBench."""
