"""From a public archive, as it is downloaded, to a Hub dataset folder: readers, audit, splits, Parquet, card."""
