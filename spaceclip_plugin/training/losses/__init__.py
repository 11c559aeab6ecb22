"""What a head is trained to minimise: one file per loss."""
