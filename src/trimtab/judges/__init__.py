"""Who gives verdicts: scores for each response, and the one function that turns them into verdicts."""
