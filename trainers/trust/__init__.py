"""Trust, fitted on the predictions of the calibration split and never on the model itself.

``temperature`` finds the one number by which all logits are divided so that probabilities mean what they say.
"""
