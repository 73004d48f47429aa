"""The pages on which people judge, and the server behind them."""
