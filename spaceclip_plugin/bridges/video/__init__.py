"""Videos through PyAV: their frames as photos, and pictures as a video."""
