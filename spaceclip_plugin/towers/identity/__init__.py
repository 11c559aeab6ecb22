"""Is this the tower that a head was trained on? A fingerprint of its weights, and what adapters do to them.

`fingerprint` is what a head's config carries. To compare a live tower with it, `tower_reading` goes through the tower
part by part, `part_reader` sums up the weights of a part, `adapted_layers` finds layers that something was added to and
asks them what it does, `resting_weights` finds weights wherever they are, and `weight_sketch` makes a few numbers of
many. Nothing of the host is run as a whole, moved or changed.
"""
