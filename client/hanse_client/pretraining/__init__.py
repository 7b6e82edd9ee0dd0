"""Pre-training: a transformer that has read other people's histories before a federation begins.

Only public data belong here, for nothing is clipped or noised: whoever has the checkpoint can
learn from it about the people whose histories it has read, and the epsilon of no federation
covers them. Items are their texts, as the frozen encoder embeds them, so that what is learnt
in one catalogue can be used in another.
"""
