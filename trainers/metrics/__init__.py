"""Pure functions of arrays: metrics, weights and intervals, and the predictions file that they are functions of."""
