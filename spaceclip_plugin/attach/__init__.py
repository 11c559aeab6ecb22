"""The live link between a frozen host and a head: taps, calls, decoding, and what is known of the host."""
