"""Trust, fitted on the predictions of the calibration split and never on the model itself."""
