"""Is this the tower that a head was trained on? A fingerprint of its weights, and what adapters do to them.

`tower_match` asks and answers, `fingerprint` is what a head's config carries, `tower_reading` and `part_reader` read a
live tower, `resting_weights`, `layer_twin` and `adapted_layers` its weights and layers without touching them, and
`weight_sketch` makes a few numbers of many.
"""
